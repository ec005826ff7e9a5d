"""Batches of single vectors: shuffled in the order of an epoch, or in the order of the shards."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from diffusae.activations.order import EpochOrder

Images = Callable[[int], np.ndarray]
"""Gives image i of the epoch's sequence as [positions, d_in] of `Manifest.numbers.read`; it is
asked in rising order within a chunk."""


def chunk_of_batches(
    order: EpochOrder,
    chunk: int,
    images: Images,
    *,
    d_in: int,
    dtype: np.dtype | type = np.float16,
    memory: np.ndarray | None = None,
) -> list[Float[Tensor, "batch d_in"]]:
    """This rank's batches of one chunk, as `dtype`. Each vector is read once and put in its place.

    `memory`, `dtype` [at least the chunk's vectors, d_in], is written over where it is given:
    memory that was touched before is several times as fast as new one.
    """
    sizes = order.sizes(chunk)
    rows = np.empty((sum(sizes), d_in), dtype=dtype) if memory is None else memory[: sum(sizes)]
    for piece in order.pieces(chunk):  # NumPy copies rows several times as fast as torch
        rows[piece.rows.numpy()] = images(piece.image)[piece.start : piece.stop]
    return list(torch.from_numpy(rows).split(sizes))


class Recycled:
    """Memory for float32 batches that is used again as soon as nobody holds the batch: new memory
    would have to be touched page by page, which takes longer than all else."""

    def __init__(self) -> None:
        self._free: list[Tensor] = []

    def batch(self, size: int, d_in: int) -> Float[Tensor, "size d_in"]:
        """A float32 batch to be written to. Its memory comes back when its last tensor, or view of
        it, is gone."""
        block = self._free.pop() if self._free else torch.empty(0)
        if block.numel() < size * d_in:
            # Begins at a cache line, to which storing takes half the time
            block = torch.empty(size * d_in)
        rows = block[: size * d_in].view(size, d_in).numpy()
        # A tensor keeps the array that it was made from
        weakref.finalize(rows, self._free.append, block)
        return torch.from_numpy(rows)


def sequential_batches(
    arrays: Iterable[np.ndarray], *, batch_size: int
) -> Iterator[Float[Tensor, "batch d_in"]]:
    """The rows of `arrays` in their order, as float32 batches; the last batch may be shorter."""
    waiting: list[Tensor] = []
    count = 0
    for array in arrays:
        waiting.append(torch.from_numpy(np.array(array)))  # what is read may not be writable
        count += len(array)
        if count >= batch_size:
            rows = torch.cat(waiting)
            whole = count - count % batch_size
            yield from (batch.float() for batch in rows[:whole].split(batch_size))
            waiting, count = [rows[whole:]], count - whole
    if count:
        yield torch.cat(waiting).float()
