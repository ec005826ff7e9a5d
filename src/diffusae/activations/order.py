"""Where every vector of an epoch goes: a pure function of seed, epoch and sizes, the same for any
number of readers.

Images come in one sequence (the shards permuted, each read from its beginning). Their vectors are
cut into chunks of whole batches, as many as the shuffle buffer holds, and each chunk is permuted by
itself. So a chunk can be made without its predecessors: workers take chunks in turn, and a resumed
run starts at the chunk of its next batch.

Within a chunk, vectors lie in `LANES` lanes, contiguous and equally long, and every batch takes
equally many vectors from each. With several ranks each takes whole lanes: it reads its own vectors
only, and the batch that all ranks see together is the one that a single process sees.

An example: 3 images of 4 vectors, batches of 4, a buffer of 8. The vectors 0 to 11 make a chunk of
two batches and one of a single batch. A chunk of 8 has 4 lanes of 2 vectors, and a batch takes one
vector of every lane:

>>> order = EpochOrder(images=3, positions=4, batch_size=4, buffer_vectors=8, seed=0, epoch=0)
>>> [order.sizes(chunk) for chunk in range(order.chunks)]
[[4, 4], [4]]
>>> for piece in order.pieces(0):
...     print(piece.image, range(piece.start, piece.stop), piece.rows.tolist())
0 range(0, 2) [4, 0]
0 range(2, 4) [1, 5]
1 range(0, 2) [2, 6]
1 range(2, 4) [7, 3]

Rows 0 to 3 of the chunk are its first batch, rows 4 to 7 its second. The first lane, vectors 0 and
1 of image 0, gives one vector to row 0 and one to row 4: one to every batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from diffusae.activations.epoch_size import LANES, check_sizes
from diffusae.errors import UserError


def generator(*numbers: int) -> torch.Generator:
    """A CPU generator whose state depends on these numbers alone, none below 0."""
    if min(numbers) < 0:
        raise UserError(f"seed={numbers[0]} must be at least 0; choose another seed")
    state = np.random.SeedSequence(list(numbers)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) & (2**63 - 1))


def order_of_shards(count: int, *, seed: int, epoch: int) -> list[int]:
    """The order in which an epoch reads `count` shards, or makes the groups of pictures in them."""
    return torch.randperm(count, generator=generator(seed, epoch)).tolist()


@dataclass(frozen=True)
class Piece:
    """Consecutive vectors of one image, `start` to `stop`, and the rows of the chunk that they go
    to.
    """

    image: int
    start: int
    stop: int
    rows: Int[Tensor, " vectors"]


@dataclass(frozen=True)
class EpochOrder:
    """The order of one epoch's vectors, for one rank.

    Args:
        images: images of the epoch. positions: vectors an image.
        batch_size: vectors of a batch over all ranks.
        buffer_vectors: the most vectors of a chunk over all ranks.
        seed, epoch: fix the order.
        rank, world_size: which share of every batch this is.
    """

    images: int
    positions: int
    batch_size: int
    buffer_vectors: int
    seed: int
    epoch: int
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        check_sizes(
            batch_size=self.batch_size,
            buffer_vectors=self.buffer_vectors,
            world_size=self.world_size,
        )

    @property
    def vectors(self) -> int:
        """Vectors of the epoch, over all ranks."""
        return self.images * self.positions

    @property
    def batches_of_chunk(self) -> int:
        """Batches of a whole chunk."""
        return self.buffer_vectors // self.batch_size

    @property
    def chunks(self) -> int:
        """Chunks of the epoch; the last may be shorter."""
        return math.ceil(self.vectors / (self.batches_of_chunk * self.batch_size))

    def shards(self, count: int) -> list[int]:
        """The order in which `count` shards are read."""
        return order_of_shards(count, seed=self.seed, epoch=self.epoch)

    def sizes(self, chunk: int) -> list[int]:
        """The lengths of this rank's batches of a chunk."""
        whole, part, lanes = self._shape(chunk)
        rest = sum(len(lane) - whole * part for lane in lanes)
        return [part * len(lanes)] * whole + ([rest] if self._tail(chunk) else [])

    def pieces(self, chunk: int) -> list[Piece]:
        """Where this rank's vectors of a chunk go: row i of the chunk is row i of its batches, one
        after the other.
        """
        return [piece for lane, rows in self.lanes(chunk) for piece in self._cut(lane, rows)]

    def lanes(self, chunk: int) -> list[tuple[range, Int[Tensor, " vectors"]]]:
        """The same as `pieces`, lane by lane: vectors of the epoch, and the rows that they go to.
        Vector v is position v % positions of image v // positions.
        """
        whole, part, lanes = self._shape(chunk)
        # This rank's share of a batch has `width` rows; the short last batch begins at row `tail`.
        width, tail = part * len(lanes), part * len(lanes) * whole
        placed: list[tuple[range, Tensor]] = []
        for place, lane in enumerate(lanes):
            number = self.rank + place * self.world_size
            # Vector i of the lane gets the place slot[i] in the lane's own order.
            slot = torch.randperm(
                len(lane), generator=generator(self.seed, self.epoch, 1 + chunk, number)
            )
            # The first `part` places go to batch 0, the next ones to batch 1, and so on. Within a
            # batch the rows of this lane follow those of the lanes before it.
            batch = slot // part if part else torch.zeros_like(slot)
            rows = batch * width + place * part + (slot - batch * part)
            # Places that fill no whole batch go to the short one, lane after lane.
            left_over = slot >= whole * part
            rows[left_over] = tail + slot[left_over] - whole * part
            tail += int(left_over.sum())
            placed.append((lane, rows))
        return placed

    def _cut(self, lane: range, rows: Tensor) -> Sequence[Piece]:
        """A lane's vectors image by image: vector v is position v % positions of image
        v // positions.
        """
        pieces = []
        first = lane.start
        while first < lane.stop:
            image, start = divmod(first, self.positions)
            stop = min(self.positions, start + lane.stop - first)
            offset = first - lane.start
            pieces.append(Piece(image, start, stop, rows[offset : offset + stop - start]))
            first += stop - start
        return pieces

    def _shape(self, chunk: int) -> tuple[int, int, list[range]]:
        """A chunk's whole batches, what each takes from a lane, and the lanes of this rank as
        ranges of vectors.
        """
        first = chunk * self.batches_of_chunk * self.batch_size
        count = min(self.batches_of_chunk * self.batch_size, self.vectors - first)
        lanes = math.gcd(self.batch_size, LANES)
        bounds = [first + count * lane // lanes for lane in range(lanes + 1)]
        mine = range(self.rank, lanes, self.world_size)
        ranges = [range(bounds[lane], bounds[lane + 1]) for lane in mine]
        return count // self.batch_size, self.batch_size // lanes, ranges

    def _tail(self, chunk: int) -> bool:
        """Whether a chunk ends with a batch that is short."""
        return chunk == self.chunks - 1 and self.vectors % self.batch_size > 0
