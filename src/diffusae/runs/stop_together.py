"""Stopping all processes of a training after the same step, with a checkpoint."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import SIGTERMException

from diffusae.errors import UserError
from diffusae.runs.checkpoint import AfterStep
from diffusae.stopping import SIGNALS, StopSignal, note


class Stopped(Exception):
    """Ends a training after its checkpoint is written."""


class Paused(Exception):
    """Ends a part of a training after its checkpoint is written."""


class Pause(AfterStep):
    """Ends a part of a training after a step, with a checkpoint. (Lightning's own way to stop would
    end the whole training: its weights would be averaged, and its dead latents told.)

    Args:
        step: the last one of this part; None, or that of the whole training: there is no pause.
        save: writes the checkpoint.
    """

    def __init__(self, step: int | None, save: Callable[[pl.Trainer], None]) -> None:
        self.step, self.save = step, save

    def after_step(self, trainer: pl.Trainer) -> None:
        if trainer.global_step == self.step:
            self.save(trainer)
            raise Paused


class StopTogether(AfterStep):
    """Stops all processes after the same step, with a checkpoint, if one of them or their command
    gets SIGINT or SIGTERM.

    Signals reach processes at different times, or only one of them. All must save after the same
    step, so they agree on it.

    Args:
        save: writes the checkpoint.
        shared: whether Lightning starts the processes. Then they get the command's signal through
            shared memory.
    """

    def __init__(self, save: Callable[[pl.Trainer], None], *, shared: bool = True) -> None:
        self.save = save
        self.asked = torch.multiprocessing.get_context("spawn").Event() if shared else None
        self.number: int | None = None

    def on_train_start(self, *_args: Any, **_kwargs: Any) -> None:
        # Replaces Lightning's handlers, which would end only this process, while others wait for
        # it.
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, self.on_signal)

    def on_signal(self, number: int, *_: Any) -> None:
        """Ask all processes to stop."""
        note(number)
        self.number = self.number or number
        if self.asked is not None:
            self.asked.set()

    @property
    def is_asked(self) -> bool:
        """Whether this process, or one that shares memory with it, was asked to stop."""
        return self.number is not None or (self.asked is not None and self.asked.is_set())

    def after_step(self, trainer: pl.Trainer) -> None:
        if trainer.strategy.reduce_boolean_decision(self.is_asked, all=False):
            self.save(trainer)
            trainer.strategy.barrier()  # the first process to end would end the others
            raise Stopped


@contextmanager
def one_command(stop: StopTogether) -> Iterator[None]:
    """Around `fit`: SIGINT and SIGTERM stop all processes. A started process' `UserError` is raised
    here.

    Raises:
        StopSignal: after a SIGINT. SIGTERMException: after a SIGTERM. Both also if the training
            ended at that moment.
    """
    signals = SIGNALS if stop.asked else ()
    before = {number: signal.signal(number, stop.on_signal) for number in signals}
    try:
        yield
    except Stopped:  # of this process, or of one that another launcher started
        raise _left(stop) from None
    except torch.multiprocessing.ProcessRaisedException as error:
        if stop.is_asked:
            raise _left(stop) from None
        _, named, message = str(error).partition(f"{UserError.__module__}.{UserError.__name__}: ")
        if named:
            raise UserError(message.strip()) from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if stop.is_asked:  # a process that Ctrl-C reaches before its first step ends without an error
        raise _left(stop)


def _left(stop: StopTogether) -> BaseException:
    return StopSignal(signal.SIGINT) if stop.number == signal.SIGINT else SIGTERMException()
