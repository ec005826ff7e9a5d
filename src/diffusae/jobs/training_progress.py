"""The bar over the steps of a training, as a callback of Lightning's."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytorch_lightning as pl

from diffusae.jobs.progress import progress_bar


class TrainingProgress(pl.Callback):
    """The bar over the steps of a whole training, brought up to date every so many steps.
    (Lightning's own bars know of epochs only.)
    """

    def __init__(self, *, every: int) -> None:
        self.every = every
        self._open = ExitStack()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            bar = progress_bar("steps", total=trainer.max_steps, done=trainer.global_step)
            self._advance, self._name = self._open.enter_context(bar)
            self._shown = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, *_args: Any, **_kwargs: Any) -> None:
        step = trainer.global_step
        if trainer.is_global_zero and (step % self.every == 0 or step == trainer.max_steps):
            self._advance(step - self._shown)
            self._shown = step
            if (fvu := trainer.callback_metrics.get("train/fvu")) is not None:
                self._name(f"training, FVU {float(fvu):.3f}")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._open.close()

    def on_exception(self, *_args: Any) -> None:
        self._open.close()
