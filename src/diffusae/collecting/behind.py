"""Writing behind the next batch: one thread takes, in order, what this thread makes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from queue import Full, Queue
from typing import Any, TypeVar

Made = TypeVar("Made")

_ENDED, _BROKEN_OFF = object(), object()


class BrokenOff(Exception):
    """Tells the thread that takes that no more comes, though the work is not complete."""


def taken_behind(
    made: Iterable[Made], take: Callable[[Iterator[Made]], None], *, waiting: int = 1
) -> None:
    """Run `take` on a second thread over what this thread makes, and return when both are done.

    Everything is taken once and in order. At most `waiting` things lie between the two threads, so
    the memory is that of `waiting` + 2 things: one is being made, and one is being taken.

    An error of `take` is raised here, before the next thing is made. If the making fails or is
    stopped, all that was made is taken first. Then `take` meets `BrokenOff` in the place of the
    next thing, and the error of the making is raised here.
    """
    line: Queue[Any] = Queue(maxsize=waiting)
    with ThreadPoolExecutor(1, thread_name_prefix="taking") as pool:
        taken: Future[None] | None = None
        try:
            taken = pool.submit(take, _things(line))
            for thing in made:
                _put(line, thing, taken)
            _put(line, _ENDED, taken)
            taken.result()
        except BaseException:
            _put(line, _BROKEN_OFF, taken)
            raise


def _put(line: Queue[Any], thing: Any, taken: Future[None] | None) -> None:
    """Put a thing into the line. Where nobody takes any more, raise the error that ended it."""
    while taken is None or not taken.done():
        with suppress(Full):
            line.put(thing, timeout=0.1)
            return
    taken.result()


def _things(line: Queue[Any]) -> Iterator[Any]:
    while (thing := line.get()) is not _ENDED:
        if thing is _BROKEN_OFF:
            raise BrokenOff
        yield thing
        del thing  # not kept while the next one is waited for
