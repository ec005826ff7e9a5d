"""Vectors of an epoch as stretches of their shards' files, to be read in large pieces."""

from __future__ import annotations

import os
import weakref
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from diffusae.activations.epoch_images import fetch_next, mapped_shard
from diffusae.activations.local_copy import open_shard
from diffusae.activations.manifest import Manifest
from diffusae.activations.reader import REMEDY
from diffusae.activations.schema import Shard, Stream
from diffusae.errors import UserError


class OpenFile:
    """A shard's file, closed when nothing refers to it any more."""

    def __init__(self, root: Path, shard: Shard) -> None:
        try:
            with open_shard(root, shard) as file:
                self._descriptor = os.dup(file.fileno())
        except FileNotFoundError:
            raise UserError(f"{shard.path} is missing below {root}; {REMEDY}") from None
        self.path = shard.path
        weakref.finalize(self, os.close, self._descriptor)
        if hasattr(os, "posix_fadvise"):  # the disk begins to read the whole file
            os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_WILLNEED)

    def read(self, offset: int, memory: memoryview) -> None:
        """Fill `memory` with the file's bytes from `offset` on; `UserError` if it ends before."""
        done = 0
        while done < len(memory):
            count = os.preadv(self._descriptor, [memory[done:]], offset + done)
            if not count:
                raise UserError(f"{self.path} is cut: it ends at byte {offset + done}; {REMEDY}")
            done += count


class Run(NamedTuple):
    """Vectors that follow each other in a file, from byte `offset` on."""

    file: OpenFile
    offset: int
    vectors: int


class VectorFiles:
    """Where the vectors of one stream and split lie.

    A shard is checked as `MappedShard` checks it, when its first vector is asked for. What is
    known of it then serves every epoch.
    """

    def __init__(self, root: Path, manifest: Manifest, stream: Stream, split: str) -> None:
        self.root, self.manifest, self.stream = root, manifest, stream
        self.positions = manifest.positions(stream, split)
        self.vectors_of_unit = manifest.positions_of_unit(stream, split)
        self.row_bytes = manifest.numbers.bytes * stream.d_in
        self._known: dict[str, tuple[list[int], list[int]]] = {}
        self._open: OpenFile | None = None

    def runs(self, shards: Sequence[Shard], vectors: Iterable[range]) -> Iterator[Run]:
        """Where the ranges of an epoch's vectors lie, if these are its shards in their order.

        Example: samples of 4 vectors that begin at bytes 1000 and 2000, with rows of 10 bytes.
        range(2, 7) gives 2 vectors from byte 1020 on, and 3 from byte 2000 on.
        """
        ends = list(accumulate(shard.units * self.vectors_of_unit for shard in shards))
        for wanted in vectors:
            first = wanted.start
            while first < wanted.stop:
                number = bisect_right(ends, first)
                begin = ends[number - 1] if number else 0
                file = self._file(shards, number)
                for run in self._within(
                    file, first - begin, min(wanted.stop, ends[number]) - begin
                ):
                    yield run
                    first += run.vectors

    def _within(self, file: OpenFile, first: int, stop: int) -> Iterator[Run]:
        """The vectors first to stop of one shard."""
        offsets, ends = self._known[file.path]
        while first < stop:
            sample = bisect_right(ends, first)
            skipped = first - (ends[sample - 1] if sample else 0)
            count = min(stop, ends[sample]) - first
            yield Run(file, offsets[sample] + skipped * self.row_bytes, count)
            first += count

    def _file(self, shards: Sequence[Shard], number: int) -> OpenFile:
        shard = shards[number]
        if self._open is None or self._open.path != shard.path:
            file = OpenFile(self.root, shard)
            if shard.path not in self._known:
                mapped = mapped_shard(self.root, self.manifest, shard, self.stream, self.positions)
                offsets, rows = zip(*mapped.stretches, strict=True) if len(mapped) else ((), ())
                self._known[shard.path] = list(offsets), list(accumulate(rows))
            self._open = file
            fetch_next(self.root, shards, number)
        return self._open


def in_pieces(runs: Iterable[Run], vectors: int, row_bytes: int) -> Iterator[list[Run]]:
    """Runs cut and grouped into lists of `vectors` vectors; the last list may hold fewer."""
    piece: list[Run] = []
    room = vectors
    for file, offset, count in runs:
        while count:
            taken = min(count, room)
            piece.append(Run(file, offset, taken))
            offset, count, room = offset + taken * row_bytes, count - taken, room - taken
            if not room:
                yield piece
                piece, room = [], vectors
    if piece:
        yield piece
