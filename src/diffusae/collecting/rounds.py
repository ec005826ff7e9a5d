"""Pictures that several processes make in rounds: every process makes one group, and gets of all
groups what it trains on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from diffusae.jobs.ranks import Ranks

Rows = Mapping[str, np.ndarray]
"""One picture: stream folder -> [kept positions, d_in], as stored numbers."""


@dataclass(frozen=True)
class Rounds:
    """How this process takes part.

    Args:
        ranks: the processes.
        trains: stream folder -> the process that trains on it. Other streams are given to nobody.
    """

    ranks: Ranks = field(default_factory=Ranks)
    trains: Mapping[str, int] = field(default_factory=dict)

    def of(self, groups: Sequence[int]) -> list[Sequence[int]]:
        """The groups of every round, in their order; process i makes number i of a round.

        An example with two processes: the groups 4, 0, 2 make the rounds [4, 0] and [2], and the
        second process makes nothing in the second round.
        """
        count = self.ranks.count
        return [groups[start : start + count] for start in range(0, len(groups), count)]

    def wanted(self, here: bool) -> bool:
        """Whether any process wants more pictures."""
        return any(self.ranks.told(here))

    def dealt(self, made: Iterator[Rows], dtype: np.dtype) -> Sequence[Iterable[Rows]]:
        """What all processes made in a round, one process after the other: every picture with the
        streams that this process trains on. A single process gets its own pictures as they are
        made. `dtype` is that of the rows.
        """
        ranks = self.ranks
        if ranks.count == 1:
            return [made]
        pictures = list(made)
        parts = [self._bytes(pictures, rank) for rank in range(ranks.count)]
        sizes = [sum(map(len, part)) for part in parts]
        given = np.concatenate(
            [np.empty(0, np.uint8), *(array for part in parts for array in part)]
        )
        shapes = {stream: rows.shape for stream, rows in next(iter(pictures), {}).items()}
        told = ranks.told({"count": len(pictures), "shapes": shapes})
        del pictures, parts  # they lie in `given` now
        swapped = ranks.swapped(given, sizes)
        return [
            self._pictures(rows.view(dtype), **theirs)
            for rows, theirs in zip(swapped, told, strict=True)
        ]

    def _streams(self, rank: int) -> list[str]:
        return [stream for stream, process in self.trains.items() if process == rank]

    def _bytes(self, pictures: Sequence[Rows], rank: int) -> list[np.ndarray]:
        """What a process gets of these pictures, stream by stream."""
        return [
            np.ascontiguousarray(rows[stream]).reshape(-1).view(np.uint8)
            for stream in self._streams(rank)
            for rows in pictures
        ]

    def _pictures(
        self, given: np.ndarray, *, count: int, shapes: Mapping[str, list[int]]
    ) -> list[Rows]:
        """The pictures in what a process gave."""
        first, streams = 0, {}
        for stream in self._streams(self.ranks.rank) if count else ():
            shape = (count, *shapes[stream])
            size = int(np.prod(shape))
            streams[stream] = given[first : first + size].reshape(shape)
            first += size
        return [{name: rows[i] for name, rows in streams.items()} for i in range(count)]
