"""Shards as memory-mapped files: the updates of any image, without a copy."""

from __future__ import annotations

import math
import mmap
import tarfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffusae.activations.local_copy import open_shard
from diffusae.activations.npy import npy_header
from diffusae.activations.schema import Shard, Stream
from diffusae.activations.stored_numbers import DEFAULT, StoredNumbers, stored_numbers
from diffusae.activations.tar_index import Member, members_of
from diffusae.errors import UserError


@dataclass(frozen=True)
class _Sample:
    key: str
    offset: int
    rows: int


class MappedShard:
    """One memory-mapped shard of a stream, with `positions` vectors per image (`ragged`: at most).

    Raises:
        UserError: the file is missing or cut, has other members than `<key>.json` and `<key>.npy`,
            a double key, or samples of another number, shape or type than the manifest says.
    """

    def __init__(
        self,
        root: Path | str,
        shard: Shard,
        stream: Stream,
        *,
        positions: int,
        remedy: str,
        ragged: bool = False,
        numbers: StoredNumbers | None = None,
    ) -> None:
        self.shape, self.ragged = (positions, stream.d_in), ragged
        self.numbers = stored_numbers(DEFAULT) if numbers is None else numbers
        try:
            file = open_shard(root, shard)
        except FileNotFoundError:
            raise UserError(f"{shard.path} is missing below {root}; {remedy}") from None
        with file:
            try:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            except ValueError:  # an empty file cannot be mapped
                raise UserError(f"{shard.path} is cut: it is empty; {remedy}") from None
        self._data = np.frombuffer(self._map, dtype=np.uint8)
        self._samples = self._index(shard, remedy)
        # All vectors begin at multiples of `_unit` numbers, so the file is a table of overlapping
        # rows. Example with 2-byte numbers and d_in = 4: rows take 8 bytes; if the samples begin at
        # bytes 1664 and 4224, gcd(8, 1664, 4224) = 8 bytes = 4 numbers, and vector 3 of the first
        # sample is row 1664 / 8 + 3 = 211 of the table.
        size = self.numbers.bytes
        row = size * stream.d_in
        self._unit = math.gcd(row, *(sample.offset for sample in self._samples)) // size
        stored = torch.from_numpy(self._view(0, len(self._data) // size * size))
        flat = stored.view(self.numbers.tensor)
        slots = max(0, (len(flat) - stream.d_in) // self._unit + 1)
        rows = flat.as_strided((slots, stream.d_in), (self._unit, 1))
        self.table: Float[Tensor, "slots d_in"] = rows
        """Every stretch of d_in numbers of the file that may be a vector. Stretches overlap."""

    @cached_property
    def slot_of_vector(self) -> Int[np.ndarray, " vectors"]:
        """vector (counted through all samples) -> its row of `table`."""
        step = self.shape[1] // self._unit
        vectors = [
            self.slots(i)[0] + step * np.arange(sample.rows)
            for i, sample in enumerate(self._samples)
        ]
        return np.concatenate(vectors)

    def _view(self, start: int, stop: int) -> np.ndarray:
        """The stored numbers between two bytes."""
        return self._data[start:stop].view(self.numbers.stored)

    def vector(self, index: int) -> Float[np.ndarray, "1 d_in"]:
        """One vector, counted through all samples; a view of the file where possible."""
        start = self.numbers.bytes * self._unit * int(self.slot_of_vector[index])
        stored = self._view(start, start + self.numbers.bytes * self.shape[1])
        return self.numbers.decode(stored)[None]

    @cached_property
    def stretches(self) -> list[tuple[int, int]]:
        """(first byte in the file, vectors) of every sample; its vectors follow each other."""
        return [(sample.offset, sample.rows) for sample in self._samples]

    def slots(self, index: int) -> tuple[int, int]:
        """The row of `table` of an image's first vector, and the step in rows to its next
        vector."""
        first = self._samples[index].offset // (self.numbers.bytes * self._unit)
        return first, self.shape[1] // self._unit

    def __len__(self) -> int:
        return len(self._samples)

    def key(self, index: int) -> str:
        """The image's id."""
        return self._samples[index].key

    def updates(self, index: int) -> Float[np.ndarray, "positions d_in"]:
        """One image's updates, a view of the file where possible. Writing to it does not change the
        file."""
        start, rows = self._samples[index].offset, self._samples[index].rows
        stop = start + self.numbers.bytes * rows * self.shape[1]
        return self.numbers.decode(self._view(start, stop)).reshape(rows, self.shape[1])

    def _index(self, shard: Shard, remedy: str) -> list[_Sample]:
        names: set[str] = set()
        samples: list[_Sample] = []
        try:
            for member in members_of(self._map):
                key, _, extension = member.name.partition(".")
                if extension not in ("npy", "json"):
                    raise UserError(
                        f"{shard.path}: member {member.name!r} is refused: only .npy and .json are "
                        f"read, never pickles or anything else; {remedy}"
                    )
                if member.name in names:
                    raise UserError(f"{shard.path}: member {member.name!r} comes twice; {remedy}")
                names.add(member.name)
                if extension == "npy":
                    samples.append(_Sample(key, *self._numbers(shard, member, remedy)))
        except tarfile.TarError as error:
            raise UserError(f"{shard.path} is cut or damaged ({error}); {remedy}") from error
        lacking = [sample.key for sample in samples if f"{sample.key}.json" not in names]
        if lacking or len(names) != 2 * len(samples):
            raise UserError(
                f"{shard.path}: samples lack their .npy or .json member: {lacking or 'some'}; "
                f"{remedy}"
            )
        if len(samples) != shard.samples:
            raise UserError(
                f"{shard.path} is cut: it has {len(samples)} samples, expected {shard.samples}; "
                f"{remedy}"
            )
        rows = sum(sample.rows for sample in samples)
        if shard.vectors is not None and rows != shard.vectors:
            raise UserError(f"{shard.path} has {rows} vectors, expected {shard.vectors}; {remedy}")
        return samples

    def _numbers(self, shard: Shard, member: Member, remedy: str) -> tuple[int, int]:
        """The byte at which an .npy member's numbers begin, and its number of rows."""
        try:
            head = self._data[member.offset : member.offset + 256].tobytes()
            dtype, shape, offset = npy_header(head)
        except ValueError as error:
            raise UserError(
                f"{shard.path}: member {member.name} cannot be read ({error}); {remedy}"
            ) from error
        fits = shape == self.shape or (
            self.ragged
            and len(shape) == 2
            and 0 < shape[0] <= self.shape[0]
            and shape[1] == self.shape[1]
        )
        if not fits or dtype != self.numbers.stored:
            raise UserError(
                f"{shard.path}: sample {member.name.partition('.')[0]!r} is {dtype} {shape}, the"
                f" manifest's stream {shard.stream} is {self.numbers.stored} {self.shape}; shards"
                f" of different collections are mixed: {remedy}"
            )
        start = member.offset + offset
        if start % dtype.itemsize:
            raise UserError(
                f"{shard.path}: the numbers of {member.name} begin at the odd byte {start}; "
                f"{remedy}"
            )
        end = min(len(self._data), member.offset + member.size)
        if start + dtype.itemsize * shape[0] * shape[1] > end:
            raise UserError(f"{shard.path} is cut: {member.name} ends after the file; {remedy}")
        return start, shape[0]
