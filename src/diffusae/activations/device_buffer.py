"""The shuffle buffer in a GPU's memory: chunks are read from files and copied there ahead.

A chunk lies there in the order of the files, as stored numbers. Its batches are gathered there.
While one chunk is used, the next one is read by threads into pinned memory and copied by a stream
of its own.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffusae.activations.settings import BufferOn
from diffusae.activations.vector_files import Run, in_pieces
from diffusae.errors import UserError

log = logging.getLogger(__name__)

PIECE_BYTES = 2**22
"""Bytes that a thread reads at a time, at least one vector."""
READERS = 4
"""Threads that read. On one machine, one thread read 8.7 GB/s from the page cache into pinned
memory, four read 16.8."""
AUTO_SHARE = 0.5
"""The largest share of a GPU's free memory that `auto` takes."""


@dataclass(frozen=True)
class Chunk:
    """What is to lie in the buffer: vectors in the order of the files, and the rows that they go
    to: row i of the chunk is row i of its batches, one after the other."""

    runs: Iterator[Run]
    rows: Int[Tensor, " vectors"]


@dataclass(frozen=True)
class DeviceRows:
    """A batch that is still to be gathered."""

    buffer: Float[Tensor, "vectors d_in"]
    places: Int[Tensor, " batch"]

    def __len__(self) -> int:
        return len(self.places)

    def gathered(self) -> Float[Tensor, "batch d_in"]:
        """The batch on the device of the buffer, in float32."""
        return self.buffer.index_select(0, self.places).float()


class DeviceBuffer:
    """Room for two chunks of at most `vectors` vectors: one is used, the next one is filled."""

    def __init__(self, device: torch.device, *, vectors: int, d_in: int, dtype: torch.dtype):
        self.device = device
        self._slots = [torch.empty(vectors, d_in, dtype=dtype, device=device) for _ in range(2)]
        self._places = [torch.empty(vectors, dtype=torch.long, device=device) for _ in range(2)]
        self._cuda = device.type == "cuda"
        self._row_bytes = d_in * dtype.itemsize
        self._piece = max(1, min(PIECE_BYTES // self._row_bytes, -(-vectors // READERS)))
        shape = READERS * self._piece, d_in
        self._staged = [torch.empty(shape, dtype=dtype, pin_memory=self._cuda) for _ in range(2)]
        self._staged_places = torch.empty(vectors, dtype=torch.long, pin_memory=self._cuda)
        self._copied: list[Any] = [None, None, None]  # the events after the copies of staged ones
        self._stream = torch.cuda.Stream(device) if self._cuda else None
        if self._stream is not None:  # freed memory is not used again before its copies are done
            for tensor in (*self._slots, *self._places):
                tensor.record_stream(self._stream)
        self._filler = ThreadPoolExecutor(1, thread_name_prefix="buffer")
        self._used = 0
        self._ahead: tuple[Hashable, Future[Any]] | None = None

    @staticmethod
    def bytes_for(vectors: int, d_in: int, dtype: torch.dtype) -> int:
        """Bytes on the device."""
        return 2 * vectors * (d_in * dtype.itemsize + torch.long.itemsize)

    def fill_ahead(self, key: Hashable, chunk: Callable[[], Chunk]) -> None:
        """Begin to read the chunk that will be asked for next; `key` is its name.

        What lay in its place before must have been gathered by calls of this thread.
        """
        before = torch.cuda.current_stream(self.device).record_event() if self._cuda else None
        self._ahead = key, self._filler.submit(self._fill, 1 - self._used, chunk, before)

    def take(self, key: Hashable, chunk: Callable[[], Chunk]) -> tuple[Tensor, Tensor]:
        """The chunk `key`: its vectors in the order of the files, and for every row of its batches
        the place in them. Both are overwritten by the second `fill_ahead` from now.

        The device waits for the copy, this thread for the reading only.

        Raises:
            UserError: a shard is missing, damaged or cut.
        """
        if self._ahead is None or self._ahead[0] != key:
            self._drop_ahead()
            self.fill_ahead(key, chunk)
        assert self._ahead is not None
        (_, filling), self._ahead = self._ahead, None
        count, copied = filling.result()
        self._used = 1 - self._used
        if self._cuda:
            torch.cuda.current_stream(self.device).wait_event(copied)
        return self._slots[self._used][:count], self._places[self._used][:count]

    def _drop_ahead(self) -> None:
        """Wait for a chunk that is no longer wanted, since the next one goes into its place."""
        if self._ahead is not None:
            with suppress(Exception):  # its faults are those of a chunk that nobody reads
                self._ahead[1].result()
            self._ahead = None

    def _fill(self, slot: int, chunk: Callable[[], Chunk], before: Any) -> tuple[int, Any]:
        """Fill a slot; the number of vectors, and the event after which they are there."""
        wanted, done = chunk(), 0
        pieces = in_pieces(wanted.runs, self._piece, self._row_bytes)
        with self._copying():
            if before is not None:
                assert self._stream is not None
                self._stream.wait_event(before)
            read: list[tuple[int, list[Future[int]]]] = []
            for number, several in enumerate(iter(lambda: list(islice(pieces, READERS)), [])):
                self._await_copy(number % 2)
                read.append((number % 2, self._begin_reading(several, self._staged[number % 2])))
                if len(read) == 2:  # while one is read, the next one is looked up
                    done += self._send(slot, done, *read.pop(0))
            for last in read:
                done += self._send(slot, done, *last)
            self._await_copy(2)
            self._staged_places[wanted.rows] = torch.arange(done)
            self._places[slot][:done].copy_(self._staged_places[:done], non_blocking=True)
            self._copied[2] = self._event()
            return done, self._copied[2]

    def _begin_reading(self, pieces: Iterable[list[Run]], staged: Tensor) -> list[Future[int]]:
        """Read pieces side by side, one after the other in `staged`; each gives its vectors."""
        memory = staged.view(-1).view(torch.uint8).numpy().data
        jobs = []
        for piece in pieces:
            jobs.append(_readers().submit(_read_runs, piece, memory, self._row_bytes))
            memory = memory[self._piece * self._row_bytes :]
        return jobs

    def _send(self, slot: int, done: int, number: int, jobs: list[Future[int]]) -> int:
        """Copy what is read to the vectors from `done` on; the number of vectors."""
        count = sum(job.result() for job in jobs)
        target = self._slots[slot][done : done + count]
        target.copy_(self._staged[number][:count], non_blocking=True)
        self._copied[number] = self._event()
        return count

    def _await_copy(self, number: int) -> None:
        """Wait until staged memory may be written again."""
        if (copied := self._copied[number]) is not None:
            copied.synchronize()

    def _copying(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def _event(self) -> Any:
        """An event after all copies so far."""
        return None if self._stream is None else self._stream.record_event()


def _read_runs(runs: Iterable[Run], memory: memoryview, row_bytes: int) -> int:
    """Read runs one after the other into `memory`; the number of vectors."""
    vectors = 0
    for run in runs:
        run.file.read(run.offset, memory[: run.vectors * row_bytes])
        memory = memory[run.vectors * row_bytes :]
        vectors += run.vectors
    return vectors


@functools.cache
def _readers() -> ThreadPoolExecutor:
    """The reading threads of all buffers."""
    return ThreadPoolExecutor(READERS, thread_name_prefix="reading")


def lies_on_device(wanted: BufferOn, device: torch.device, needed: int) -> bool:
    """Whether a buffer of `needed` bytes goes to the device of the training.

    `auto` puts it there if it takes at most half of what is free on a CUDA device, and says where
    it does not.

    Raises:
        UserError: "device" is wanted, and the device is no CUDA device, or the buffer does not fit.
    """
    if wanted == "host" or (wanted == "auto" and device.type != "cuda"):
        return False
    if device.type != "cuda":
        raise UserError(
            f"activations.buffer_on=device needs a CUDA device, the training is on {device}; take "
            "auto or host"
        )
    free, _ = torch.cuda.mem_get_info(device)
    sizes = f"needs {needed / 1e9:.3g} GB on {device}, where {free / 1e9:.3g} GB are free"
    if wanted == "device" and needed > free:
        raise UserError(
            f"the shuffle buffer {sizes}; lower activations.buffer_vectors, or take "
            "activations.buffer_on=host"
        )
    if wanted == "auto" and needed > AUTO_SHARE * free:
        log.info("the shuffle buffer lies on the host: it %s, and at most half is taken", sizes)
        return False
    return True
