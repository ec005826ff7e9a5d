"""The one progress bar of the stages: what is at hand, how much is done, the rate, and the time left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Advance = Callable[[int], None]


@contextmanager
def progress_bar(what: str, *, total: int, done: int = 0) -> Iterator[tuple[Advance, Callable[[str], None]]]:
    """Yield `advance(count)` and `name(description)`; nothing is shown where nothing is left to do."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    rate = TextColumn("{task.fields[rate]}")
    with Progress(
        *columns, rate, TimeElapsedColumn(), TimeRemainingColumn(), disable=done >= total
    ) as progress:
        bar = progress.add_task(what, total=total, completed=done, rate="")

        def advance(count: int = 1) -> None:
            progress.advance(bar, count)
            speed = progress.tasks[0].speed
            progress.update(bar, rate=f"{speed:.2f} {what}/s" if speed else "")

        def name(description: str) -> None:
            progress.update(bar, description=description)

        yield advance, name
