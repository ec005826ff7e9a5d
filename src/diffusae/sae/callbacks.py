"""Callbacks of a training that Lightning does not have."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import EMAWeightAveraging

from diffusae.sae.autoencoder import SparseAutoencoder


class MovingAverage(EMAWeightAveraging):
    """Validates and saves the exponential moving average of the weights in place of the last ones.

    An average of unit vectors is shorter than 1, so decoder rows are normalised after every update.

    Args:
        decay: share of the old weights in an update, in [0, 1).
    """

    def __init__(self, *, decay: float) -> None:
        # Buffers are not averaged: ages of latents and BatchTopK's threshold are no weights.
        super().__init__(decay=decay, use_buffers=False)

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        super().on_train_batch_end(*args, **kwargs)
        assert self._average_model is not None
        for part in self._average_model.module.modules():
            if isinstance(part, SparseAutoencoder):
                part.project()

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
