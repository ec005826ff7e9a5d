"""Many autoencoders trained in one process from one read of the data, every one as if alone."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor

from diffusae.errors import UserError
from diffusae.sae.module import SAEModule, adam

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Member:
    """One training of several.

    Attributes:
        stream: where its batches come from.
    """

    stream: str
    module: SAEModule


class SideBySide(pl.LightningModule):
    """Trains every member on the batch of its stream at every step.

    Batches are {stream: vectors [batch, d_in]}; members of one stream (such as several k) get the
    same. No number of a member depends on another: their losses are summed, but share no weight, so
    every gradient is its own, is clipped by its own norm, and goes through Adam entry by entry. The
    weights equal those of single trainings bit for bit on a CPU. Validation loaders come one a
    stream, in the order of `streams`.

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
        for name, module in self._modules_by_name():
            with named(name):
                module.on_fit_start()

    def on_train_start(self) -> None:
        for name, module in self._modules_by_name():
            with named(name):
                module.on_train_start()

    def training_step(
        self, batches: dict[str, Float[Tensor, "batch d_in"]], batch_idx: int
    ) -> Float[Tensor, ""]:
        losses = []
        for name, member in self.members.items():
            with named(name):
                loss, measured = member.module.training_loss(batches[member.stream])
            losses.append(loss)
            self.log_dict({f"{name}/train/{figure}": value for figure, value in measured.items()})
        return torch.stack(losses).sum()

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
        for name, module in self._modules_by_name():
            with named(name):
                module.refuse_broken_weights()
            if warning := module.dead_warning():
                logger.warning("%s: %s", name, warning)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        for _, module in self._modules_by_name():
            module.on_before_optimizer_step(optimizer)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip every member by the norm of its own gradient."""
        if gradient_clip_val is not None:
            for _, module in self._modules_by_name():
                torch.nn.utils.clip_grad_norm_(module.autoencoder.parameters(), gradient_clip_val)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        for _, module in self._modules_by_name():
            module.autoencoder.project()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        modules = [module for _, module in self._modules_by_name()]
        groups = [{"params": list(module.autoencoder.parameters())} for module in modules]
        optimizer = adam(groups, modules[0])
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, [module.lr_factor for module in modules]
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _modules_by_name(self) -> Iterator[tuple[str, SAEModule]]:
        return ((name, member.module) for name, member in self.members.items())


@contextmanager
def named(member: str) -> Iterator[None]:
    """Put the member's name before an error."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{member}: {error}") from error
