"""Batches of single vectors, in the shuffled order of an epoch or in the order of the shards."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from diffusae.activations.order import EpochOrder

Images = Callable[[int], np.ndarray]
"""Image i of the epoch as [positions, d_in] (`Manifest.numbers.read`). Within a chunk, i rises."""


def chunk_of_batches(
    order: EpochOrder,
    chunk: int,
    images: Images,
    *,
    d_in: int,
    dtype: np.dtype | type = np.float16,
    memory: np.ndarray | None = None,
) -> list[Float[Tensor, "batch d_in"]]:
    """This rank's batches of one chunk, as `dtype`. Every vector is read once and put in its place.

    A given `memory` (`dtype` [at least the chunk's vectors, d_in]) is overwritten: used memory is
    several times as fast as new memory.
    """
    sizes = order.sizes(chunk)
    rows = np.empty((sum(sizes), d_in), dtype=dtype) if memory is None else memory[: sum(sizes)]
    for piece in order.pieces(chunk):  # NumPy copies rows several times as fast as torch
        rows[piece.rows.numpy()] = images(piece.image)[piece.start : piece.stop]
    return list(torch.from_numpy(rows).split(sizes))


class Recycled:
    """Memory for float32 batches that is reused once a batch is released. New memory is far slower:
    the kernel must clear it page by page."""

    def __init__(self) -> None:
        self._free: list[Tensor] = []

    def batch(self, size: int, d_in: int) -> Float[Tensor, "size d_in"]:
        """A float32 batch to write to. Its memory is free again when its last tensor or view is
        gone."""
        block = self._free.pop() if self._free else torch.empty(0)
        if block.numel() < size * d_in:
            block = torch.empty(size * d_in)  # begins at a cache line, which halves storing time
        rows = block[: size * d_in].view(size, d_in).numpy()
        weakref.finalize(rows, self._free.append, block)  # a tensor keeps its array alive
        return torch.from_numpy(rows)


def sequential_batches(
    arrays: Iterable[np.ndarray], *, batch_size: int
) -> Iterator[Float[Tensor, "batch d_in"]]:
    """The rows of `arrays` in order, as float32 batches. The last batch may be shorter."""
    waiting: list[Tensor] = []
    count = 0
    for array in arrays:
        waiting.append(torch.from_numpy(np.array(array)))  # a view of a file may be read-only
        count += len(array)
        if count >= batch_size:
            rows = torch.cat(waiting)
            whole = count - count % batch_size
            yield from (batch.float() for batch in rows[:whole].split(batch_size))
            waiting, count = [rows[whole:]], count - whole
    if count:
        yield torch.cat(waiting).float()
