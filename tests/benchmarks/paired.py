"""Ratios of times, measured in turns: they depend on the machine less than times do."""

import statistics
import time
from collections.abc import Callable

Work = Callable[[], object]


def seconds(work: Work, clock: Callable[[], float] = time.perf_counter) -> float:
    start = clock()
    work()
    return clock() - start


def paired(first: Work, second: Work, *, rounds: int = 9) -> float:
    """The median over rounds A B A B ... of the time of `first` over that of `second`."""
    first()
    second()
    return statistics.median(seconds(first) / seconds(second) for _ in range(rounds))


def in_turns(
    works: dict[str, Work], *, rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of all `works` in rounds A B C A B C ..., after one run of each that does not count.

    `time.process_time` as the clock ignores the time of other programs; it fits work in one
    process.
    """
    for work in works.values():
        work()
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            times[name].append(seconds(work, clock))
    return times
