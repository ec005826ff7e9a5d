"""Callbacks of a training that Lightning does not have."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging

from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.whole_step import WholeStep


class MovingAverage(EMAWeightAveraging):
    """Validates and saves the exponential moving average of the weights in place of the last ones.

    An average of unit vectors is shorter than 1, so decoder rows are normalised after every update.
    The update is a part of the training step (`WholeStep.after_step`).

    Args:
        decay: share of the old weights in an update, in [0, 1).
    """

    def __init__(self, *, decay: float) -> None:
        # Buffers are not averaged: ages of latents and BatchTopK's threshold are no weights.
        super().__init__(decay=decay, use_buffers=False)
        self.decay = decay

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert self._average_model is not None and isinstance(pl_module, WholeStep)
        self._module = pl_module
        self._begun = bool(self._average_model.n_averaged > 0)
        pl_module.after_step.append(self._follow)

    @torch.no_grad()
    def _follow(self) -> None:
        """Update the average after a step, without a wait for the device."""
        assert self._average_model is not None
        average, weights = self._average_model.module, list(self._module.parameters())
        for old, new in zip(average.parameters(), weights, strict=True):
            old.lerp_(new, 1 - self.decay) if self._begun else old.copy_(new)
        for old, new in zip(average.buffers(), self._module.buffers(), strict=True):
            old.copy_(new)
        for part in average.modules():
            if isinstance(part, SparseAutoencoder):
                part.project()
        self._average_model.n_averaged += 1
        self._begun = True  # the first step is never captured

    def on_train_batch_end(self, trainer: pl.Trainer, *_args: Any, **_kwargs: Any) -> None:
        self._latest_update_step = trainer.global_step

    def on_validation_epoch_end(self, *_args: Any, **_kwargs: Any) -> None:
        """Nothing yet: the figures are computed after this hook, and are to be of the average."""

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_validation_epoch_end(trainer, pl_module)


class LastValidation(pl.Callback):
    """Has the last weights validated, also where the steps are no multiple of the interval: their
    figures are saved with them.
    """

    def on_train_batch_end(self, trainer: pl.Trainer, *_args: Any, **_kwargs: Any) -> None:
        if trainer.global_step == trainer.max_steps:
            trainer.should_stop = True
