"""The chunk in progress of an epoch, filled picture by picture while the pictures are made.

Training without storage works so (`collecting/online.py` makes the pictures, `training/online.py`
trains):

1. An epoch's order names the groups of pictures one after the other, as it names stored shards.
2. Groups are generated in this order, in the very batches in which `collect` would make them.
3. A picture's updates are rounded, rejected and thinned by the code that fills stored groups.
4. Every stream has a buffer for one chunk. Accepted pictures fill it in the epoch's order.
5. A full buffer is a chunk: its batches are those of stored training, bit for bit.
6. Generation pauses in the middle of a group, and the chunk is trained on.
7. Streams with equally many vectors a picture fill together, and their SAEs train side by side.
8. Streams with fewer vectors a picture have longer chunks, and train less often.
9. A checkpoint follows every chunk. A resumed run makes the chunk in progress again.
10. A further epoch makes all pictures again, in another order.
11. Several processes make the groups in turn, and each has the buffers of its own streams.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from diffusae.activations.order import EpochOrder
from diffusae.activations.scattered import Place, ScatteredRows, scattered_batches


@dataclass(frozen=True)
class Chunk:
    """A chunk to train on: `batches[stream][i]` is batch `first + i` of the epoch.

    The batches are views of the buffer: they hold until the next picture is added.
    """

    epoch: int
    first: int
    batches: Mapping[str, Sequence[ScatteredRows]]

    def __len__(self) -> int:
        return len(next(iter(self.batches.values())))

    def batch(self, number: int) -> dict[str, Float[Tensor, "batch d_in"]]:
        """Copies of one batch of every stream, in float32."""
        copies = {}
        for name, of_stream in self.batches.items():
            batch = of_stream[number]
            copies[name] = torch.empty(len(batch), batch.tables[0].shape[1])
            batch.copy_to(copies[name])
        return copies


@dataclass(kw_only=True)
class ChunkBuffer:
    """The chunk in progress of streams that have equally many vectors a picture.

    An example: 3 pictures of 4 vectors, batches of 4, a buffer of 8. The second picture completes
    the chunk of the vectors 0 to 7, which `diffusae.activations.order` shuffles:

    >>> buffer = ChunkBuffer(widths={"mid": 1}, images=3, positions=4, batch_size=4,
    ...                      buffer_vectors=8, seed=0)
    >>> def picture(image):
    ...     return {"mid": np.arange(4 * image, 4 * image + 4, dtype=np.float16)[:, None]}
    >>> [len(list(buffer.add(0, image, picture(image)))) for image in range(3)]
    [0, 1, 0]
    >>> [(chunk.first, len(chunk)) for chunk in buffer.end(3)]
    [(2, 1)]

    Args:
        widths: stream -> d_in.
        images: pictures of an epoch; where some may be rejected, as many as there are at most.
        positions: vectors of a picture.
        batch_size, buffer_vectors, seed: as in `EpochOrder`.
        dtype: of the buffer, `StoredNumbers.read`.

    Raises:
        UserError: the sizes do not fit (see `check_sizes`).
    """

    widths: Mapping[str, int]
    images: int
    positions: int
    batch_size: int
    buffer_vectors: int
    seed: int
    dtype: np.dtype | type = np.float16

    def __post_init__(self) -> None:
        self._order(0)
        self.chunk_vectors = self.buffer_vectors // self.batch_size * self.batch_size
        self._rows: dict[str, np.ndarray] = {}
        self.seek(0)

    @property
    def batches_of_epoch(self) -> int:
        """Batches of an epoch; the last may be short."""
        return math.ceil(self.images * self.positions / self.batch_size)

    @property
    def bytes(self) -> int:
        """Memory of the buffer."""
        size = min(self.chunk_vectors, self.images * self.positions)
        return size * sum(self.widths.values()) * np.dtype(self.dtype).itemsize

    @property
    def place(self) -> tuple[int, int]:
        """The epoch, and the picture of its order that the buffer needs next."""
        return self.epoch, (self._begin + self._filled) // self.positions

    def seek(self, batch: int) -> None:
        """Empty the buffer, and begin the chunk that holds a batch, counted through all epochs."""
        self.epoch, batch = divmod(batch, self.batches_of_epoch)
        whole = self.chunk_vectors // self.batch_size
        self._begin, self._filled = batch // whole * self.chunk_vectors, 0

    def add(self, epoch: int, image: int, rows: Mapping[str, np.ndarray]) -> Iterator[Chunk]:
        """Take what the buffer needs of picture `image` of an epoch, stream -> [positions, d_in];
        give every chunk that it completes. Pictures before the one that is needed are left out.
        """
        while epoch == self.epoch:
            start = self._begin + self._filled - image * self.positions
            count = min(self.positions - start, self.chunk_vectors - self._filled)
            if count <= 0:
                return
            assert start >= 0, f"picture {image} comes before picture {self.place[1]}"
            for name, table in self._tables().items():
                table[self._filled : self._filled + count] = rows[name][start : start + count]
            self._filled += count
            if self._filled == self.chunk_vectors:
                yield from self._give()

    def end(self, images: int) -> Iterator[Chunk]:
        """End the epoch, whose accepted pictures are known now, and give its short last chunk."""
        self.images = images
        if self._filled:
            yield from self._give()
        self.epoch, self._begin = self.epoch + 1, 0

    def _give(self) -> Iterator[Chunk]:
        order = self._order(self.epoch)
        number = self._begin // self.chunk_vectors
        yield Chunk(
            self.epoch,
            self._begin // self.batch_size,
            {
                name: scattered_batches(order, number, self._place_in(torch.from_numpy(table)))
                for name, table in self._tables().items()
            },
        )
        self._begin, self._filled = self._begin + self._filled, 0

    def _place_in(self, table: torch.Tensor) -> Place:
        """Where the chunk's vectors lie: in their order."""
        slots = np.arange(len(table))
        return lambda vector: (table, slots[vector - self._begin :])

    def _tables(self) -> dict[str, np.ndarray]:
        if not self._rows:
            size = min(self.chunk_vectors, self.images * self.positions)
            self._rows = {
                name: np.empty((size, d_in), dtype=self.dtype) for name, d_in in self.widths.items()
            }
        return self._rows

    def _order(self, epoch: int) -> EpochOrder:
        return EpochOrder(
            images=self.images,
            positions=self.positions,
            batch_size=self.batch_size,
            buffer_vectors=self.buffer_vectors,
            seed=self.seed,
            epoch=epoch,
        )
