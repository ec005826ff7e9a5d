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
    """Ends the training of all processes after the same step, with a checkpoint, when one of them was sent a SIGTERM or
    `asked` was set.

    A signal reaches each process at another moment, or one alone, but all must save at one step: so they agree on it.
    """

    def __init__(self, save: Callable[[pl.Trainer], None]) -> None:
        self.save = save
        self.asked = torch.multiprocessing.get_context("spawn").Event()
        self._told = False

    def on_train_start(self, *_args: Any, **_kwargs: Any) -> None:
        # In place of Lightning's handler, which ends this process alone and leaves the others waiting for it.
        signal.signal(signal.SIGTERM, self._on_sigterm)

    def _on_sigterm(self, *_: Any) -> None:
        self._told = True

    def after_step(self, trainer: pl.Trainer) -> None:
        if trainer.strategy.reduce_boolean_decision(self._told or self.asked.is_set(), all=False):
            self.save(trainer)
            trainer.strategy.barrier()  # the first that ends ends the others
            raise Stopped


@contextmanager
def one_command(stop: StopTogether) -> Iterator[None]:
    """Around `fit` of several processes: SIGTERM stops them all, and the errors of those that are started here are ours."""

    def on_sigterm(*_: Any) -> None:
        stop.asked.set()

    before = signal.signal(signal.SIGTERM, on_sigterm)
    try:
        yield
    except Stopped:  # of a process that was started from outside
        raise SIGTERMException from None
    except torch.multiprocessing.ProcessRaisedException as error:
        if stop.asked.is_set():
            raise SIGTERMException from None
        _, named, message = str(error).partition(f"{UserError.__module__}.{UserError.__name__}: ")
        if named:
            raise UserError(message.strip()) from None
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
