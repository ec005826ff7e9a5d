"""One stream as training and validation batches for Lightning, resumable in mid-epoch."""

from __future__ import annotations

import math
import signal
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import accumulate
from multiprocessing import get_context
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any, Self, get_args

import numpy as np
import pytorch_lightning as pl
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from diffusae.activations.local_copy import Copies, fetch_ahead, is_local_copy
from diffusae.activations.manifest import Manifest
from diffusae.activations.mapped import MappedShard
from diffusae.activations.order import EpochOrder, check_sizes
from diffusae.activations.reader import REMEDY, read_updates, require_sound
from diffusae.activations.scattered import ScatteredRows, Table, scattered_batches
from diffusae.activations.schema import Shard, Stream
from diffusae.activations.settings import Reader
from diffusae.activations.shuffle import Recycled, chunk_of_batches, sequential_batches
from diffusae.errors import UserError, unknown


class _MappedImages:
    """Image i of an epoch from memory-mapped shards; vector i in a ragged collection."""

    def __init__(
        self, root: Path, manifest: Manifest, shards: Sequence[Shard], stream: Stream, split: str
    ) -> None:
        self.root, self.shards, self.stream = root, shards, stream
        self.positions, self.ragged = manifest.positions(stream, split), manifest.ragged
        self.numbers = manifest.numbers
        self.ends = list(accumulate(shard.units for shard in shards))
        self._open: tuple[int, MappedShard] | None = None

    def __call__(self, image: int) -> np.ndarray:
        shard, index = self._find(image)
        return shard.vector(index) if self.ragged else shard.updates(index)

    def place(self, image: int) -> tuple[Table, int, int]:
        """The image's table, first slot and step between slots, without reading it."""
        shard, index = self._find(image)
        if self.ragged:
            return shard.table, int(shard.slot_of_vector[index]), 1
        return shard.table, *shard.slots(index)

    def _find(self, image: int) -> tuple[MappedShard, int]:
        number = bisect_right(self.ends, image)
        if self._open is None or self._open[0] != number:
            shard = MappedShard(
                self.root,
                self.shards[number],
                self.stream,
                positions=self.positions,
                remedy=REMEDY,
                ragged=self.ragged,
                numbers=self.numbers,
            )
            self._open = number, shard
            _fetch_next(self.root, self.shards, number)
        return self._open[1], image - self.ends[number] + self.shards[number].units


def _fetch_next(root: Path, shards: Sequence[Shard], number: int) -> None:
    if number + 1 < len(shards):
        fetch_ahead(root, shards[number + 1])


class _StreamedImages:
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
                _fetch_next(self.root, self.shards, number)
        return self._updates

    def _read(self, shards: Sequence[Shard]) -> Iterator[np.ndarray]:
        for sample in self.read(shards=shards):
            if self.ragged:
                yield from sample.updates[:, None]
            else:
                yield sample.updates


class _Chunks(IterableDataset[list[Tensor] | list[ScatteredRows]]):
    """The chunks of an epoch from chunk `first` on; worker w of n makes every n-th, beginning with
    w.

    Without workers, vectors of mapped shards are not copied here but gathered batch by batch.
    """

    def __init__(
        self,
        order: EpochOrder,
        images: Callable[[], _MappedImages | _StreamedImages],
        *,
        d_in: int,
        dtype: np.dtype,
        first: int,
    ) -> None:
        self.order, self.images, self.first = order, images, first
        self.d_in, self.dtype = d_in, dtype
        self.copies = Copies()  # tells new worker processes which directories are local copies

    def __iter__(self) -> Iterator[list[Tensor] | list[ScatteredRows]]:
        worker = get_worker_info()
        offset, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        images = self.images()
        if worker is None and isinstance(images, _MappedImages):
            for chunk in range(self.first, self.order.chunks):
                yield scattered_batches(self.order, chunk, images.place)
            return
        # One memory serves all chunks: batches are copied before the next chunk is made. A worker
        # runs ahead, so it needs new memory.
        size = self.order.batches_of_chunk * self.order.batch_size
        shape = min(size, self.order.vectors), self.d_in
        memory = None if worker else np.empty(shape, dtype=self.dtype)
        for chunk in range(self.first + offset, self.order.chunks, stride):
            yield chunk_of_batches(
                self.order, chunk, images, d_in=self.d_in, dtype=self.dtype, memory=memory
            )


def _server_of_workers() -> BaseContext:
    """Workers fork from a server process that has no threads and has imported this module.

    Fetching runs threads. A process that is forked from one with threads can wait for a lock
    forever.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _leave_signals_to_the_training(_worker: int) -> None:
    """Ignore stop signals: the training needs its workers until its checkpoint is written. Workers
    end with their parent."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class ShuffledBatches(IterableDataset[Float[Tensor, "batch d_in"]]):
    """Batches of shuffled vectors. Their order depends only on (seed, epoch), sizes and shards.

    It does not depend on the number of workers or ranks: each rank gets its part of every batch
    (`diffusae.activations.order`). Memory is bounded by one chunk of `buffer_vectors`, or by three
    per worker.

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
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if reader not in get_args(Reader):
            raise unknown("reader", reader, get_args(Reader))
        if workers < 0:
            raise UserError(f"workers={workers} must not be below 0; raise it")
        self.root, self.manifest, self.stream, self.split = Path(root), manifest, stream, split
        self.batch_size, self.buffer_vectors, self.seed = batch_size, buffer_vectors, seed
        self.drop_last, self.reader, self.workers = drop_last, reader, workers
        self.rank, self.world_size = rank, world_size
        self._shards = manifest.shards(stream.folder, split)
        self._recycled = Recycled()
        self.epoch = 0
        self._given = 0
        self._skip = 0
        self._vectors = self._order().vectors
        self._order().shards(len(self._shards))  # refuses a bad seed now
        if not len(self):
            raise UserError(
                f"split {split!r} has {self._vectors} vectors, less than a batch; lower batch_size"
            )

    def _order(self) -> EpochOrder:
        return EpochOrder(
            images=sum(shard.units for shard in self._shards),
            positions=self.manifest.positions_of_unit(self.stream, self.split),
            batch_size=self.batch_size,
            buffer_vectors=self.buffer_vectors,
            seed=self.seed,
            epoch=self.epoch,
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
        shards = [self._shards[index] for index in order.shards(len(self._shards))]
        kind = _MappedImages if self.reader == "mapped" else _StreamedImages
        images = partial(kind, self.root, self.manifest, shards, self.stream, self.split)
        chunks: Iterable[list[Tensor] | list[ScatteredRows]] = _Chunks(
            order, images, d_in=self.stream.d_in, dtype=self.manifest.numbers.read, first=first
        )
        if self.workers:
            start = _server_of_workers() if is_local_copy(self.root) else None
            chunks = DataLoader(
                chunks,  # type: ignore[arg-type]
                batch_size=None,
                num_workers=self.workers,
                multiprocessing_context=start,
                worker_init_fn=_leave_signals_to_the_training,
            )
        for chunk in chunks:
            for batch in chunk[skipped:]:
                if self._given == len(self):
                    return
                self._given += 1
                # A batch that is released before the next one gives its memory, still in the cache.
                yield self._in_float32(batch)
            skipped = 0

    def _in_float32(self, batch: Tensor | ScatteredRows) -> Float[Tensor, "batch d_in"]:
        rows = self._recycled.batch(len(batch), self.stream.d_in)
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


class SequentialBatches(IterableDataset[Float[Tensor, "batch d_in"]]):
    """Batches of vectors in the order of the shards."""

    def __init__(
        self, root: Path | str, *, manifest: Manifest, stream: Stream, split: str, batch_size: int
    ) -> None:
        check_sizes(batch_size=batch_size, buffer_vectors=batch_size)
        self.root, self.manifest, self.stream, self.split = Path(root), manifest, stream, split
        self.batch_size = batch_size

    def __len__(self) -> int:
        return math.ceil(self.manifest.vectors(self.stream, self.split) / self.batch_size)

    def __iter__(self) -> Iterator[Float[Tensor, "batch d_in"]]:
        samples = read_updates(self.root, self.manifest, self.stream, self.split)
        yield from sequential_batches(
            (sample.updates for sample in samples), batch_size=self.batch_size
        )


class ActivationDataModule(pl.LightningDataModule):
    """The batches of one stream of a finished collection.

    Args:
        root: the collection's directory.
        block, t, conditioning: the stream's coordinates.
        batch_size: vectors per batch. buffer_vectors: vectors in the shuffle buffer.
        seed: fixes the training order, together with the epoch.
        reader: "mapped" (memory-mapped files) or "webdataset"; both give the same batches.
        workers: processes that prepare chunks of batches; 0: this process does.
        train_split, validation_split: names of the splits.
        drop_last: leave out a short last training batch.
        verify: compare the stream's shards with their hashes before the first batch.

    Raises:
        UserError: the collection is unfinished, the stream or split is unknown, a split has no
            vectors, or a size is invalid.
    """

    def __init__(
        self,
        root: Path | str,
        *,
        block: str,
        t: float,
        conditioning: str,
        batch_size: int,
        buffer_vectors: int,
        seed: int,
        train_split: str = "train",
        validation_split: str = "validation",
        drop_last: bool = False,
        reader: Reader = "mapped",
        workers: int = 0,
        verify: bool = True,
    ) -> None:
        super().__init__()
        self.root = Path(root)
        self.manifest = Manifest.load(self.root)
        self.stream = self.manifest.stream(block, t, conditioning)
        self.train_split, self.validation_split = train_split, validation_split
        for split in (train_split, validation_split):
            if not self.vectors(split):
                raise UserError(
                    f"split {split!r} of {self.root} has no vectors; collect more prompts for it"
                )
        self.batch_size = batch_size
        self.verify = verify
        self._train = ShuffledBatches(
            self.root,
            manifest=self.manifest,
            stream=self.stream,
            split=train_split,
            batch_size=batch_size,
            buffer_vectors=buffer_vectors,
            seed=seed,
            drop_last=drop_last,
            reader=reader,
            workers=workers,
        )

    @property
    def d_in(self) -> int:
        """Channels of a vector."""
        return self.stream.d_in

    @property
    def grid(self) -> tuple[int, int]:
        """(height, width) of the positions."""
        return self.stream.grid

    @property
    def batches_of_epoch(self) -> int:
        """Training batches of an epoch."""
        return len(self._train)

    def vectors(self, split: str) -> int:
        """Vectors of the stream in one split."""
        return self.manifest.vectors(self.stream, split)

    def prepare_data(self) -> None:
        """`UserError` for damaged shards (all in one). Lightning calls this before the first
        batch."""
        if self.verify:
            require_sound(self.root, self.manifest, streams=[self.stream.folder])

    def train_dataloader(self) -> ShuffledBatches:
        """The shuffled training batches. Always the same object, which keeps its place in the
        epoch."""
        if self.trainer is not None:
            self._train.share(self.trainer.global_rank, self.trainer.world_size)
        return self._train

    def val_dataloader(self) -> SequentialBatches:
        """The validation batches in the order of the shards."""
        return SequentialBatches(
            self.root,
            manifest=self.manifest,
            stream=self.stream,
            split=self.validation_split,
            batch_size=self.batch_size,
        )
