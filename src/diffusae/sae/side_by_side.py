"""Many autoencoders trained in one process from one read of the data, every one as if alone."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from diffusae.errors import UserError
from diffusae.sae.module import SAEModule, adam
from diffusae.sae.step import Member
from diffusae.sae.watch import named
from diffusae.sae.whole_step import WholeStep

logger = logging.getLogger(__name__)


class SideBySide(WholeStep):
    """Trains every member on the batch of its stream at every step.

    Batches are {stream: vectors [batch, d_in]}; members of one stream (such as several k) get the
    same. No number of a member depends on another: every gradient is its own, is clipped by its own
    norm, and goes through Adam entry by entry. The weights equal those of single trainings bit for
    bit on a CPU. On a CUDA device the steps of all members are one captured graph. Validation
    loaders come one a stream, in the order of `streams`.

    Logs what `SAEModule` logs, below the member's name: `<member>/train/loss`.

    Args:
        members: name -> training. All have the same optimiser settings, as one configuration gives
            them.

    Raises:
        UserError: no members; settings of the optimiser that differ; during training what a member
            raises, with its name.
    """

    def __init__(self, members: Mapping[str, Member]) -> None:
        super().__init__()
        if not members:
            raise UserError("there is nothing to train; name one cell at least")
        modules = [member.module for member in members.values()]
        if len({(module.lr, module.betas, module.epsilon) for module in modules}) > 1:
            raise UserError(
                "trainings side by side need one learning rate and Adam; train the others by"
                " themselves"
            )
        self.members = dict(members)
        self.streams = list(dict.fromkeys(member.stream for member in members.values()))
        for index, member in enumerate(members.values()):
            # Direct children get to know the trainer. Names of children may not hold dots, and
            # those of members do.
            self.add_module(f"member_{index}", member.module)

    def on_fit_start(self) -> None:
        super().on_fit_start()
        for name, module in self._modules_by_name():
            with named(name):
                module.on_fit_start()

    def on_train_start(self) -> None:
        for name, module in self._modules_by_name():
            with named(name):
                module.on_train_start()

    def trained(self) -> dict[str, Member]:
        return self.members

    def training_step(
        self, batches: dict[str, Float[Tensor, "batch d_in"]], batch_idx: int
    ) -> Float[Tensor, ""]:
        return self.take_step(batches)

    def validation_step(
        self, batch: Float[Tensor, "batch d_in"], batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        for name, member in self.members.items():
            if member.stream == self.streams[dataloader_idx]:
                with named(name):
                    member.module.validate(batch)

    def on_validation_epoch_end(self) -> None:
        for name, module in self._modules_by_name():
            self.log_dict(
                {f"{name}/val/{key}": value for key, value in module.validation_figures().items()}
            )

    def on_train_end(self) -> None:
        super().on_train_end()
        for name, module in self._modules_by_name():
            with named(name):
                module.refuse_broken_weights()
            if warning := module.dead_warning():
                logger.warning("%s: %s", name, warning)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        modules = [module for _, module in self._modules_by_name()]
        return adam([{"params": list(m.autoencoder.parameters())} for m in modules], modules[0])

    def _modules_by_name(self) -> Iterator[tuple[str, SAEModule]]:
        return ((name, member.module) for name, member in self.members.items())
