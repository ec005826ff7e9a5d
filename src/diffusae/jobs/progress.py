"""Progress of long work: what, how much, how fast, time left. Bars on a terminal, else log lines.

Work may be part of other work: the pictures of a metric, of a cell, of a grid. The command opens
the outermost one. In a log, a thread writes one line for all of them every minute, also where
nothing advances.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import ClassVar

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.text import Text

log = logging.getLogger(__name__)

Advance = Callable[..., None]

INTERVAL_S = 60.0
"""Seconds between two lines of a log."""


@dataclass(eq=False)
class Work:
    """Something that takes long: `done` of `total` units `what`; no total: of unknown length."""

    what: str
    total: int | None = None
    done: int = 0
    description: str = ""
    clock: Callable[[], float] = monotonic
    first: int = field(init=False)
    begun: float = field(init=False)
    last: float = field(init=False)

    def __post_init__(self) -> None:
        self.first, self.begun = self.done, self.clock()
        self.last = self.begun

    def advance(self, count: int) -> None:
        """Count `count` more finished units."""
        if count:
            self.done, self.last = self.done + count, self.clock()

    @property
    def rate(self) -> float | None:
        """Units a second, over all finished since the start; None before the first."""
        done, seconds = self.done - self.first, self.last - self.begun
        return done / seconds if done > 0 and seconds > 0 else None

    @property
    def seconds_left(self) -> float | None:
        """Seconds to the end at the mean rate, counted from now.

        A unit that already takes longer than the mean counts as finished now.
        """
        if self.total is None or self.rate is None:
            return None
        now, remaining = self.clock(), self.total - self.done
        if now - self.last <= 1 / self.rate:
            return remaining / self.rate - (now - self.last) if remaining else 0.0
        return remaining * (now - self.begun) / (self.done - self.first + 1)

    def clause(self) -> str:
        """Its part of a log line."""
        name = self.description or self.what
        if self.total is None:
            return f"{name} for {duration(self.clock() - self.begun)}"
        done = f"{'' if name == self.what else f'{name}: '}{self.done}/{self.total} {self.what}"
        if self.rate is None or self.seconds_left is None:
            return f"{done}, begun {duration(self.clock() - self.begun)} ago"
        return f"{done}, {pace(self.rate, self.what)}, {duration(self.seconds_left)} left"

    def ended(self) -> str:
        """The line that remains at the end."""
        speed = f", {pace(self.rate, self.what)}" if self.rate else ""
        return f"{self.what} {self.done}/{self.total}{speed}, {duration(self.clock() - self.begun)}"


def pace(rate: float, what: str) -> str:
    """A rate a second, a minute or an hour: the first unit with a number of 1 or more."""
    for seconds, unit in ((1, "s"), (60, "min")):
        if rate * seconds >= 1:
            return f"{rate * seconds:.1f} {what}/{unit}"
    return f"{rate * 3600:.2g} {what}/h"


def duration(seconds: float) -> str:
    """A text such as "42 s", "7 min 05 s" or "3 h 12 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


class _Shown(ProgressColumn):
    """A column that is computed from the work."""

    def __init__(self, text: Callable[[Work], str]) -> None:
        super().__init__()
        self._text = text

    def render(self, task: Task) -> Text:
        return Text(self._text(task.fields["work"]))


class _Works:
    """The works of this process, outermost first, and their display."""

    open: ClassVar[list[Work]] = []
    bars: ClassVar[Progress | None] = None
    stop: ClassVar[threading.Event | None] = None

    @classmethod
    def begin(cls) -> None:
        """Show the first work: bars on a terminal, else a thread that writes to the log."""
        console = Console()
        if console.is_terminal:
            cls.bars = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                _Shown(lambda work: "" if work.total is None else f"{work.done}/{work.total}"),
                _Shown(lambda work: pace(work.rate, work.what) if work.rate else ""),
                _Shown(lambda work: duration(work.clock() - work.begun)),
                _Shown(
                    lambda work: (
                        "" if work.seconds_left is None else f"{duration(work.seconds_left)} left"
                    )
                ),
                console=console,
                transient=True,
            )
            cls.bars.start()
        else:
            cls.stop = threading.Event()
            threading.Thread(
                target=cls._log, args=(cls.stop,), name="progress", daemon=True
            ).start()

    @classmethod
    def end(cls) -> None:
        """Stop the display."""
        if cls.bars is not None:
            cls.bars.stop()
        if cls.stop is not None:
            cls.stop.set()
        cls.bars = cls.stop = None

    @classmethod
    def _log(cls, stop: threading.Event) -> None:
        while not stop.wait(INTERVAL_S):
            line = "; ".join(work.clause() for work in list(cls.open))
            if logging.getLogger().handlers:
                log.info("%s", line)
            else:  # a process that Lightning started has no log of its own
                _print(line)

    @classmethod
    def print_end(cls, work: Work) -> None:
        """Print a line that remains and says what was done."""
        if cls.bars is not None:
            cls.bars.console.print(Text(work.ended()))
        else:
            _print(work.ended())


def _print(line: str) -> None:
    with suppress(OSError, ValueError):  # nobody reads it any more, but the work continues
        print(line, flush=True)


@contextmanager
def _shown(work: Work) -> Iterator[Callable[[], None]]:
    """Show a work inside the context; yields a function that updates its bar."""
    if not _Works.open:
        _Works.begin()
    _Works.open.append(work)
    bars = _Works.bars
    name = work.description or work.what
    bar = None if bars is None else bars.add_task(name, total=work.total, work=work)

    def update() -> None:
        if bars is not None and bar is not None:
            bars.update(bar, completed=work.done, description=work.description or work.what)

    update()
    try:
        yield update
    finally:
        _Works.open.remove(work)
        if bars is not None and bar is not None:
            bars.remove_task(bar)
        if work.total is not None:
            _Works.print_end(work)
        if not _Works.open:
            _Works.end()


@contextmanager
def at_work(what: str) -> Iterator[None]:
    """Show work of unknown length, such as "labelling mid-t0.50-cond-k10"."""
    with _shown(Work(what)):
        yield


@contextmanager
def progress_bar(
    what: str, *, total: int, done: int = 0
) -> Iterator[tuple[Advance, Callable[[str], None]]]:
    """Yield `advance(count)` and `name(description)`; nothing is shown where all is done."""
    work = Work(what, total, done)
    with ExitStack() as stack:
        update = stack.enter_context(_shown(work)) if done < total else lambda: None

        def advance(count: int = 1) -> None:
            work.advance(count)
            update()

        def name(description: str) -> None:
            work.description = description
            update()

        yield advance, name
