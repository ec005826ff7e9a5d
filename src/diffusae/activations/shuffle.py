"""Batches of single vectors: shuffled in the order of an epoch, or in the order of the shards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from diffusae.activations.order import EpochOrder

Images = Callable[[int], np.ndarray]
"""Gives image i of the epoch's sequence as float16 [positions, d_in]; it is asked in rising order within a chunk."""


def chunk_of_batches(
    order: EpochOrder, chunk: int, images: Images, *, d_in: int
) -> list[Float[Tensor, "batch d_in"]]:
    """This rank's batches of one chunk, as float16. Each vector is read once and put in its place."""
    sizes = order.sizes(chunk)
    # NumPy's memory asks for huge pages, without which a chunk's first touch takes longer than all else; and it
    # copies rows several times as fast as torch.
    rows = np.empty((sum(sizes), d_in), dtype=np.float16)
    for piece in order.pieces(chunk):
        rows[piece.rows.numpy()] = images(piece.image)[piece.start : piece.stop]
    return list(torch.from_numpy(rows).split(sizes))


def sequential_batches(
    arrays: Iterable[np.ndarray], *, batch_size: int
) -> Iterator[Float[Tensor, "batch d_in"]]:
    """The rows of `arrays` in their order, as float32 batches; the last batch may be shorter."""
    waiting: list[Tensor] = []
    count = 0
    for array in arrays:
        waiting.append(torch.from_numpy(np.ascontiguousarray(array)))
        count += len(array)
        if count >= batch_size:
            rows = torch.cat(waiting)
            whole = count - count % batch_size
            yield from (batch.float() for batch in rows[:whole].split(batch_size))
            waiting, count = [rows[whole:]], count - whole
    if count:
        yield torch.cat(waiting).float()
