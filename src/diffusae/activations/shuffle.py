"""Batches of single vectors in an order that depends on the generator only, within bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from diffusae.errors import UserError


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    """A CPU generator whose state depends on (seed, epoch) alone, both at least 0."""
    if seed < 0 or epoch < 0:
        raise UserError(f"seed={seed} and epoch={epoch} must be at least 0; choose another seed")
    state = np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) & (2**63 - 1))


def check_sizes(*, batch_size: int, buffer_vectors: int) -> None:
    """Raise `UserError` unless 1 <= batch_size <= buffer_vectors."""
    if batch_size < 1:
        raise UserError(f"batch_size={batch_size} must be at least 1; raise it")
    if buffer_vectors < batch_size:
        raise UserError(f"buffer_vectors={buffer_vectors} is below batch_size={batch_size}; raise the buffer")


def shuffled_batches(
    arrays: Iterable[np.ndarray],
    *,
    batch_size: int,
    buffer_vectors: int,
    generator: torch.Generator,
    skip: int = 0,
    drop_last: bool = False,
) -> Iterator[Float[Tensor, "batch d_in"]]:
    """Shuffle the rows of `arrays` through a buffer and yield each exactly once, in float32 batches.

    The buffer is filled, about half of it is given out in random order, the freed rows are filled again, and
    so on; at the end the rest is given out. So each batch mixes rows from at least `buffer_vectors / 2`
    candidates, and a buffer as large as the set makes the order a uniform permutation. Rows never move: only
    indices are permuted.

    Args:
        arrays: float arrays [positions, d_in], one an image.
        batch_size: rows a batch; the last batch may be shorter.
        buffer_vectors: rows held at a time, at least `batch_size`.
        generator: the CPU generator that alone fixes the order.
        skip: leave out the first so many batches; the others are the same as without.
        drop_last: leave out a last batch that is short.
    """
    check_sizes(batch_size=batch_size, buffer_vectors=buffer_vectors)
    given_at_once = max(1, buffer_vectors // 2 // batch_size) * batch_size
    buffer: Tensor | None = None
    free = torch.arange(buffer_vectors)

    def batches(order: Tensor) -> Iterator[Tensor]:
        nonlocal skip
        assert buffer is not None
        for rows in order.split(batch_size):
            if drop_last and len(rows) < batch_size:
                return
            if skip > 0:
                skip -= 1
            else:
                yield buffer[rows].float()

    for array in arrays:
        incoming = torch.from_numpy(np.ascontiguousarray(array))
        if buffer is None:
            buffer = torch.empty(buffer_vectors, incoming.shape[1], dtype=incoming.dtype)
        while len(incoming):
            taken = min(len(free), len(incoming))
            buffer[free[:taken]] = incoming[:taken]
            free, incoming = free[taken:], incoming[taken:]
            if not len(free):
                free = torch.randperm(buffer_vectors, generator=generator)[:given_at_once]
                yield from batches(free)
    held = torch.ones(buffer_vectors, dtype=torch.bool)
    held[free] = False
    rest = held.nonzero().squeeze(1)
    if len(rest):
        yield from batches(rest[torch.randperm(len(rest), generator=generator)])


def sequential_batches(
    arrays: Iterable[np.ndarray], *, batch_size: int
) -> Iterator[Float[Tensor, "batch d_in"]]:
    """The rows of `arrays` in their order, as float32 batches; the last batch may be shorter."""
    check_sizes(batch_size=batch_size, buffer_vectors=batch_size)
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
