"""Ending a training of several processes, all after the same step."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import SIGTERMException

from diffusae.errors import UserError
from diffusae.runs.checkpoint import AfterStep


class Stopped(Exception):
    """Leaves a training whose checkpoint is written."""


class StopTogether(AfterStep):
    """Ends the training of all processes after the same step, with a checkpoint, when `asked` was set.

    A signal reaches one process at any moment, but all must save at one step: so the first one tells the others.
    """

    def __init__(self, save: Callable[[pl.Trainer], None]) -> None:
        self.save = save
        self.asked = torch.multiprocessing.get_context("spawn").Event()

    def after_step(self, trainer: pl.Trainer) -> None:
        if trainer.strategy.broadcast(self.asked.is_set()):
            self.save(trainer)
            trainer.strategy.barrier()  # the first that ends ends the others
            raise Stopped


@contextmanager
def one_command(stop: StopTogether) -> Iterator[None]:
    """Around `fit` where its processes are started here: SIGTERM stops them all, and their errors are ours."""

    def on_sigterm(*_: Any) -> None:
        stop.asked.set()

    before = signal.signal(signal.SIGTERM, on_sigterm)
    try:
        yield
    except torch.multiprocessing.ProcessRaisedException as error:
        if stop.asked.is_set():
            raise SIGTERMException from None
        _, named, message = str(error).partition(f"{UserError.__module__}.{UserError.__name__}: ")
        if named:
            raise UserError(message.strip()) from None
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
