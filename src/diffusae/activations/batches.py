"""The batches of one stream: shuffled and resumable in mid-epoch, or in the order of the shards."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import IterableDataset

from diffusae.activations.device_buffer import Chunk, DeviceBuffer, DeviceRows, lies_on_device
from diffusae.activations.epoch_images import MappedImages, StreamedImages
from diffusae.activations.epoch_size import check_sizes
from diffusae.activations.host_chunks import HostChunk, HostChunks
from diffusae.activations.local_copy import is_local_copy
from diffusae.activations.manifest import Manifest
from diffusae.activations.order import EpochOrder
from diffusae.activations.reader import read_updates
from diffusae.activations.scattered import ScatteredRows
from diffusae.activations.schema import Shard, Stream
from diffusae.activations.settings import BufferOn, Reader
from diffusae.activations.shuffle import Recycled, sequential_batches
from diffusae.activations.vector_files import VectorFiles
from diffusae.errors import UserError, unknown

log = logging.getLogger(__name__)


class ShuffledBatches(IterableDataset[Float[Tensor, "batch d_in"]]):
    """Batches of shuffled vectors. Their order depends only on (seed, epoch), sizes and shards.

    It does not depend on the number of workers or ranks: each rank gets its part of every batch
    (`diffusae.activations.order`). Memory is bounded by one chunk of `buffer_vectors`, or by three
    per worker; on a GPU by two (`place_buffer`).

    The state is (epoch, batches given). After `load_state_dict` the next pass begins at the next
    batch, so a resumed run sees the same batches. `len` is known, so Lightning does not fetch a
    batch ahead, which would count as given before it is trained on.
    """

    def __init__(
        self,
        root: Path | str,
        *,
        manifest: Manifest,
        stream: Stream,
        split: str,
        batch_size: int,
        buffer_vectors: int,
        seed: int,
        drop_last: bool = False,
        reader: Reader = "mapped",
        workers: int = 0,
        buffer_on: BufferOn = "auto",
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if reader not in get_args(Reader):
            raise unknown("reader", reader, get_args(Reader))
        if buffer_on not in get_args(BufferOn):
            raise unknown("buffer_on", buffer_on, get_args(BufferOn))
        if buffer_on == "device" and reader != "mapped":
            raise UserError(
                f"activations.buffer_on=device needs activations.reader=mapped, it is {reader}; "
                "the batches are the same"
            )
        if workers < 0:
            raise UserError(f"workers={workers} must not be below 0; raise it")
        self.root, self.manifest, self.stream, self.split = Path(root), manifest, stream, split
        self.batch_size, self.buffer_vectors, self.seed = batch_size, buffer_vectors, seed
        self.drop_last, self.reader, self.workers = drop_last, reader, workers
        self.buffer_on: BufferOn = "host" if reader != "mapped" else buffer_on
        self.rank, self.world_size = rank, world_size
        self._shards = manifest.shards(stream.folder, split)
        self._recycled = Recycled()
        self._buffer: DeviceBuffer | None = None
        self._files = VectorFiles(self.root, manifest, stream, split)
        self.epoch = 0
        self._given = 0
        self._skip = 0
        self._vectors = self._order().vectors
        self._order().shards(len(self._shards))  # refuses a bad seed now
        if not len(self):
            raise UserError(
                f"split {split!r} has {self._vectors} vectors, less than a batch; lower batch_size"
            )

    def _order(self, epoch: int | None = None) -> EpochOrder:
        return EpochOrder(
            images=sum(shard.units for shard in self._shards),
            positions=self.manifest.positions_of_unit(self.stream, self.split),
            batch_size=self.batch_size,
            buffer_vectors=self.buffer_vectors,
            seed=self.seed,
            epoch=self.epoch if epoch is None else epoch,
            rank=self.rank,
            world_size=self.world_size,
        )

    @property
    def sampler(self) -> Self:
        """Itself: Lightning calls `set_epoch` on a loader's `sampler`."""
        return self

    def __len__(self) -> int:
        whole = self._vectors // self.batch_size
        return whole if self.drop_last else math.ceil(self._vectors / self.batch_size)

    def share(self, rank: int, world_size: int) -> None:
        """From now on give this rank's part of every batch. `UserError` if batches cannot be
        shared."""
        self.rank, self.world_size = rank, world_size
        self._order()

    def place_buffer(self, device: torch.device) -> None:
        """Let the shuffle buffer lie where `buffer_on` says, for a training on `device`. Batches of
        a buffer on the device are made there, too.

        Raises:
            UserError: it must lie on the device and cannot.
        """
        if self._buffer is not None and self._buffer.device == device:
            return
        vectors = sum(self._order().sizes(0))
        self._buffer = _buffer_on(device, self.buffer_on, vectors, self.manifest, self.stream)
        if self._buffer is not None:
            log.info("the shuffle buffer of %d vectors lies on %s", vectors, device)
            if self.workers:
                log.info("threads fill it, so activations.workers=%d do not start", self.workers)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next pass. A pass to resume is dropped if it belongs to another
        epoch."""
        if epoch != self.epoch:
            self.epoch, self._given, self._skip = epoch, 0, 0

    def __iter__(self) -> Iterator[Float[Tensor, "batch d_in"]]:
        # A generator, so that the epoch is read at the first batch: Lightning makes the iterator
        # first and sets the epoch afterwards.
        self._given, self._skip = self._skip, 0
        order = self._order()
        first, skipped = divmod(self._given, order.batches_of_chunk)
        chunks: Iterable[HostChunk | list[DeviceRows]]
        if self._buffer is None:
            chunks = self._host_chunks(order, first)
        else:
            chunks = self._device_chunks(self._buffer, order, first)
        for chunk in chunks:
            for batch in chunk[skipped:]:
                if self._given == len(self):
                    return
                self._given += 1
                # A batch that is released before the next one gives its memory, still in the cache.
                yield self._in_float32(batch, self._recycled)
            skipped = 0

    def first_batch(self) -> Float[Tensor, "batch d_in"]:
        """The whole first batch of the first epoch, for all ranks. It does not count as given."""
        order = replace(self._order(epoch=0), rank=0, world_size=1)
        batch = next(iter(self._chunks_here(order, 0)))[0]
        # Not in recycled memory: processes that are started later would all have it in common.
        return self._in_float32(batch, Recycled())

    def _host_chunks(self, order: EpochOrder, first: int) -> Iterable[HostChunk]:
        chunks = self._chunks_here(order, first)
        if not self.workers:
            return chunks
        return chunks.by_workers(self.workers, fetches=is_local_copy(self.root))

    def _chunks_here(self, order: EpochOrder, first: int) -> HostChunks:
        kind = MappedImages if self.reader == "mapped" else StreamedImages
        shards = self._shards_of(order)
        images = partial(kind, self.root, self.manifest, shards, self.stream, self.split)
        return HostChunks(
            order, images, d_in=self.stream.d_in, dtype=self.manifest.numbers.read, first=first
        )

    def _device_chunks(
        self, buffer: DeviceBuffer, order: EpochOrder, first: int
    ) -> Iterator[list[DeviceRows]]:
        """Chunks whose batches lie on the device. While one is used, the next one is read, also the
        first of the next epoch."""
        following = self._order(order.epoch + 1)
        numbers = [(order, chunk) for chunk in range(first, order.chunks)]
        for at, after in zip(numbers, [*numbers[1:], (following, 0)], strict=False):
            vectors, places = buffer.take(at, partial(self._chunk, *at))
            buffer.fill_ahead(after, partial(self._chunk, *after))
            yield [DeviceRows(vectors, part) for part in places.split(order.sizes(at[1]))]

    def _chunk(self, order: EpochOrder, chunk: int) -> Chunk:
        """What a chunk holds, in the order of the files."""
        lanes = order.lanes(chunk)
        runs = self._files.runs(self._shards_of(order), [lane for lane, _ in lanes])
        return Chunk(runs, torch.cat([rows for _, rows in lanes]))

    def _shards_of(self, order: EpochOrder) -> list[Shard]:
        return [self._shards[index] for index in order.shards(len(self._shards))]

    def _in_float32(
        self, batch: Tensor | ScatteredRows | DeviceRows, memory: Recycled
    ) -> Float[Tensor, "batch d_in"]:
        if isinstance(batch, DeviceRows):
            return batch.gathered()
        rows = memory.batch(len(batch), self.stream.d_in)
        if isinstance(batch, ScatteredRows):
            batch.copy_to(rows)
        else:
            rows.copy_(batch)
        return rows

    def state_dict(self) -> dict[str, Any]:
        """The epoch and its number of given batches. After a whole epoch: the next epoch and 0."""
        given = max(self._given, self._skip)  # a pass to resume may not have begun yet
        epoch, batches = (self.epoch + 1, 0) if given >= len(self) else (self.epoch, given)
        return {"epoch": epoch, "batches": batches, **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the next pass continue after the given batches.

        Raises:
            UserError: the state has another seed, batch size, buffer, `drop_last` or vector count.
        """
        changed = [
            f"{name} {state.get(name)} -> {value}"
            for name, value in self._identity().items()
            if state.get(name) != value
        ]
        if changed:
            raise UserError(
                f"the checkpoint's batches cannot be continued: {'; '.join(changed)}; restore "
                "these values"
            )
        self.epoch, self._given, self._skip = state["epoch"], 0, state["batches"]

    def _identity(self) -> dict[str, int]:
        return {
            "seed": self.seed,
            "batch_size": self.batch_size,
            "buffer_vectors": self.buffer_vectors,
            "drop_last": self.drop_last,
            "vectors": self._vectors,
        }


def _buffer_on(
    device: torch.device, wanted: BufferOn, vectors: int, manifest: Manifest, stream: Stream
) -> DeviceBuffer | None:
    """A buffer on the device; None where it is to lie on the host."""
    kind, d_in = manifest.numbers.tensor, stream.d_in
    if not lies_on_device(wanted, device, DeviceBuffer.bytes_for(vectors, d_in, kind)):
        return None
    return DeviceBuffer(device, vectors=vectors, d_in=d_in, dtype=kind)


class SequentialBatches(IterableDataset[Float[Tensor, "batch d_in"]]):
    """Batches of vectors in the order of the shards."""

    def __init__(
        self, root: Path | str, *, manifest: Manifest, stream: Stream, split: str, batch_size: int
    ) -> None:
        check_sizes(batch_size=batch_size, buffer_vectors=batch_size)
        self.root, self.manifest, self.stream, self.split = Path(root), manifest, stream, split
        self.batch_size = batch_size
        self._vectors = manifest.vectors(stream, split)
        self._at_once = min(self._vectors, max(1, _AT_ONCE // batch_size) * batch_size)
        self._buffer: DeviceBuffer | None = None
        self._files = VectorFiles(self.root, manifest, stream, split)

    def __len__(self) -> int:
        return math.ceil(self._vectors / self.batch_size)

    def place_buffer(self, device: torch.device, wanted: BufferOn) -> None:
        """From now on make batches on `device`, if it is a GPU with room and `wanted` is not
        "host".
        """
        if self._buffer is None or self._buffer.device != device:
            on: BufferOn = "host" if wanted == "host" else "auto"
            self._buffer = _buffer_on(device, on, self._at_once, self.manifest, self.stream)

    def __iter__(self) -> Iterator[Float[Tensor, "batch d_in"]]:
        if self._buffer is None:
            samples = read_updates(self.root, self.manifest, self.stream, self.split)
            updates = (sample.updates for sample in samples)
            yield from sequential_batches(updates, batch_size=self.batch_size)
            return
        starts = range(0, self._vectors, self._at_once)
        for first, following in zip(starts, [*starts[1:], 0], strict=True):
            vectors, _ = self._buffer.take(first, partial(self._part, first))
            self._buffer.fill_ahead(following, partial(self._part, following))
            yield from (batch.float() for batch in vectors.split(self.batch_size))

    def _part(self, first: int) -> Chunk:
        """Up to `_at_once` vectors from `first` on."""
        wanted = range(first, min(first + self._at_once, self._vectors))
        shards = self.manifest.shards(self.stream.folder, self.split)
        return Chunk(self._files.runs(shards, [wanted]), torch.arange(len(wanted)))


_AT_ONCE = 65536
"""Vectors of a sequential reading that lie on a GPU at once, at least one batch."""
