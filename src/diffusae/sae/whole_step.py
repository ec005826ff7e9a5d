"""A Lightning module whose `training_step` is a whole step."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from torch import Tensor

from diffusae.sae.across_processes import world_size
from diffusae.sae.replay import Recorder
from diffusae.sae.step import Member, Step


class WholeStep(pl.LightningModule):
    """Trains autoencoders by `Step`. Lightning keeps its loop around it: it counts steps, and calls
    hooks, validation and checkpoints; but gradients, clipping and the optimiser are the step's.

    Attributes:
        after_step: what is carried out at the end of every step, as a part of it; filled by
            callbacks before the first step of a fit.
        recorder: see `Step`.
    """

    recorder: Recorder | None = None

    def __init__(self) -> None:
        super().__init__()
        self.after_step: list[Callable[[], None]] = []
        self._step: Step | None = None

    @abstractmethod
    def trained(self) -> Mapping[str, Member]:
        """{name: what is trained}; the name is "" where it is one."""

    def step_of(self, optimizer: torch.optim.Optimizer, *, clip: float | None = None) -> Step:
        """The step of this module; Lightning's loop has its own."""
        return Step(
            self.trained(),
            optimizer,
            clip=clip,
            done=self.global_step,
            after=self.after_step,
            recorder=self.recorder,
        )

    def take_step(self, batches: Mapping[str, Float[Tensor, "batch d_in"]]) -> Float[Tensor, ""]:
        """Train every autoencoder on the batch of its stream, log the figures where they are due,
        and return the sum of the losses.
        """
        if self._step is None:
            optimizer = self.optimizers(use_pl_optimizer=False)
            assert isinstance(optimizer, torch.optim.Optimizer)
            self._step = self.step_of(optimizer, clip=self.trainer.gradient_clip_val)  # type: ignore[arg-type]
        losses, figures = self._step(batches)
        if self._logs_step():
            for name, measured in zip(self.trained(), figures, strict=True):
                start = f"{name}/train/" if name else "train/"
                named = {start + figure: value.clone() for figure, value in measured.items()}
                self.log_dict(named, sync_dist=world_size() > 1)
        return losses.sum()

    def _logs_step(self) -> bool:
        """Whether Lightning writes the figures of this step. To log others would only take time."""
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        done = self.global_step + 1
        return done == self.trainer.max_steps or (every > 0 and done % every == 0)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Nothing: the step has its gradients."""

    def optimizer_zero_grad(self, *args: Any) -> None:
        """Nothing: a step begins with no gradients."""

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Any,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """The whole step is in the closure."""
        if optimizer_closure is not None:
            optimizer_closure()

    def on_validation_start(self) -> None:
        self._check()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._check()

    def on_train_end(self) -> None:
        self._check()
        self._forget_step()

    def on_fit_start(self) -> None:
        self._forget_step()  # that of a fit which an error ended

    def _forget_step(self) -> None:
        self._step = None
        self.after_step.clear()

    def _check(self) -> None:
        if self._step is not None:
            self._step.check()
