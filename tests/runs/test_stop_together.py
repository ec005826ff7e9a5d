"""Processes that train together stop after the same step, by a signal or by their command."""

import os
import signal
from collections.abc import Callable

import pytest
import pytorch_lightning as pl
from pytorch_lightning.callbacks import LambdaCallback
from pytorch_lightning.demos.boring_classes import BoringModel, RandomDataset
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch.utils.data import DataLoader

from diffusae.runs.stop_together import StopTogether, one_command


def by_signal(_stop: StopTogether) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def by_the_command(stop: StopTogether) -> None:
    assert stop.asked is not None
    stop.asked.set()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tell", [by_signal, by_the_command])
def test_a_process_that_is_told_saves_and_leaves_after_the_step_at_hand(
    tell: Callable[[StopTogether], None],
):
    saved: list[int] = []
    stop = StopTogether(lambda trainer: saved.append(trainer.global_step))
    telling = LambdaCallback(
        on_train_batch_start=lambda trainer, *_: tell(stop) if trainer.global_step == 3 else None
    )
    trainer = pl.Trainer(
        max_steps=9,
        accelerator="cpu",
        logger=False,
        callbacks=[telling, stop],
        limit_val_batches=0,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    before = signal.getsignal(signal.SIGTERM)
    model = BoringModel()
    with pytest.raises(SIGTERMException), one_command(stop):
        trainer.fit(model, DataLoader(RandomDataset(32, 20)))
    assert saved == [4] == [trainer.global_step]
    assert signal.getsignal(signal.SIGTERM) is before
