"""Ctrl-C (SIGINT) and SIGTERM: the first ends the work in order, a second Ctrl-C ends it at
once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SHOW_CURSOR = b"\x1b[?25h"

_active = False
_received: int | None = None


class StopSignal(SystemExit):
    """Ends the work with the exit code 128 + `number`.

    It is no `Exception`, so that it is not taken for a failure, and no `KeyboardInterrupt`, which
    Lightning swallows.
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number


def received() -> int | None:
    """The number of the signal that asked this process to stop; None if there was none."""
    return _received


def note(number: int) -> None:
    """For signal handlers: remember a signal during `stopped_by_signals`. A second Ctrl-C exits."""
    global _received
    if not _active:
        return
    if _received is not None and number == signal.SIGINT:
        if os.isatty(1):
            os.write(1, _SHOW_CURSOR)  # a progress bar hides it
        os.write(2, b"\nended at once; the same command goes on\n")
        os._exit(128 + number)
    _received = _received or number


def raise_if_received() -> None:
    """Raise `StopSignal` again if a library's `except` or a finaliser swallowed it."""
    if _received is not None:
        raise StopSignal(_received)


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Within the block, SIGINT and SIGTERM raise `StopSignal` in the main thread.

    This holds also for jobs that a script starts with `&`, for which the shell ignores SIGINT.
    """
    global _active, _received
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _active, _received = True, None
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        signal.signal(number, _on_signal)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _active, _received = False, None


def _on_signal(number: int, _frame: FrameType | None) -> None:
    first = _received is None
    note(number)
    if first:
        raise StopSignal(number)
