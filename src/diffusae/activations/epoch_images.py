"""The images of an epoch in the order of its shards, from mapped files or through webdataset."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path

import numpy as np
from jaxtyping import Int

from diffusae.activations.local_copy import fetch_ahead
from diffusae.activations.manifest import Manifest
from diffusae.activations.mapped import MappedShard
from diffusae.activations.reader import REMEDY, read_updates
from diffusae.activations.scattered import Table
from diffusae.activations.schema import Shard, Stream


class MappedImages:
    """Image i of an epoch from memory-mapped shards; vector i in a ragged collection."""

    def __init__(
        self, root: Path, manifest: Manifest, shards: Sequence[Shard], stream: Stream, split: str
    ) -> None:
        self.root, self.manifest, self.shards, self.stream = root, manifest, shards, stream
        self.positions, self.ragged = manifest.positions(stream, split), manifest.ragged
        self.vectors_of_unit = manifest.positions_of_unit(stream, split)
        self.ends = list(accumulate(shard.units for shard in shards))
        self._open: tuple[int, MappedShard] | None = None

    def __call__(self, image: int) -> np.ndarray:
        shard, index = self._find(image)
        return shard.vector(index) if self.ragged else shard.updates(index)

    def place(self, vector: int) -> tuple[Table, Int[np.ndarray, " slots"]]:
        """Where vectors lie, without reading them: the table of a shard, and the slots of the
        epoch's vector `vector` and of those after it in the shard."""
        unit, rest = divmod(vector, self.vectors_of_unit)
        shard, index = self._find(unit)
        return shard.table, shard.slot_of_vector[index * self.vectors_of_unit + rest :]

    def _find(self, image: int) -> tuple[MappedShard, int]:
        number = bisect_right(self.ends, image)
        if self._open is None or self._open[0] != number:
            shard = mapped_shard(
                self.root, self.manifest, self.shards[number], self.stream, self.positions
            )
            self._open = number, shard
            fetch_next(self.root, self.shards, number)
        return self._open[1], image - self.ends[number] + self.shards[number].units


def mapped_shard(
    root: Path, manifest: Manifest, shard: Shard, stream: Stream, positions: int
) -> MappedShard:
    """A shard of a collection, mapped and checked."""
    return MappedShard(
        root,
        shard,
        stream,
        positions=positions,
        remedy=REMEDY,
        ragged=manifest.ragged,
        numbers=manifest.numbers,
    )


def fetch_next(root: Path, shards: Sequence[Shard], number: int) -> None:
    """In a local copy, begin to fetch the shard after shard `number`."""
    if number + 1 < len(shards):
        fetch_ahead(root, shards[number + 1])


class StreamedImages:
    """Image i of an epoch through webdataset, from the first requested shard on; vector i in a
    ragged collection."""

    def __init__(
        self, root: Path, manifest: Manifest, shards: Sequence[Shard], stream: Stream, split: str
    ) -> None:
        self.read = partial(read_updates, root, manifest, stream, split)
        self.root, self.shards, self.ragged = root, shards, manifest.ragged
        self.ends = list(accumulate(shard.units for shard in shards))
        self._at = -1
        self._units: Iterator[np.ndarray] = iter(())
        self._updates = np.empty(0)

    def __call__(self, image: int) -> np.ndarray:
        number = bisect_right(self.ends, image)
        if self._at < 0 or image < self._at or number > 1 + bisect_right(self.ends, self._at):
            self._units = self._read(self.shards[number:])
            self._at = self.ends[number] - self.shards[number].units - 1
        while self._at < image:
            self._updates = next(self._units)
            self._at += 1
            if self._at + self.shards[number].units == self.ends[number]:  # a shard's first
                fetch_next(self.root, self.shards, number)
        return self._updates

    def _read(self, shards: Sequence[Shard]) -> Iterator[np.ndarray]:
        for sample in self.read(shards=shards):
            if self.ragged:
                yield from sample.updates[:, None]
            else:
                yield sample.updates
