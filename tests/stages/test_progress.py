"""What a person sees of a training."""

import pytest
import pytorch_lightning as pl
from pytorch_lightning.demos.boring_classes import BoringModel

from diffusae.stages.progress import TrainingProgress


def train(*callbacks: pl.Callback) -> None:
    trainer = pl.Trainer(max_steps=150, max_epochs=-1, limit_train_batches=20, accelerator="cpu", logger=False,
                         enable_checkpointing=False, enable_model_summary=False,
                         enable_progress_bar=False, callbacks=[TrainingProgress(every=10), *callbacks])  # fmt: skip
    trainer.fit(BoringModel())


def test_the_bar_counts_the_steps_of_all_epochs(capsys):
    train()
    shown = capsys.readouterr().out
    assert "150/150" in shown and "steps/s" in shown


class FailsAt(pl.Callback):
    def on_train_batch_start(self, trainer, *_args):
        if trainer.global_step == 40:
            raise ValueError("here")


def test_a_training_that_fails_leaves_the_bar_where_it_was(capsys):
    with pytest.raises(ValueError, match="here"):
        train(FailsAt())
    shown = capsys.readouterr().out
    assert " 40/150" in shown and "150/150" not in shown
