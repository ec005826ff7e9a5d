"""The sizes of an epoch: batches, chunks, and the pictures that they need.

Without torch, since `plan` counts by them.
"""

from __future__ import annotations

import math

from diffusae.errors import UserError

LANES = 8
"""The most ranks that can share a batch; fewer where the batch size is not a multiple of it."""


def check_sizes(*, batch_size: int, buffer_vectors: int, world_size: int = 1) -> None:
    """Raise `UserError` unless 1 <= batch_size <= buffer_vectors, and the ranks can share a
    batch.
    """
    if batch_size < 1:
        raise UserError(f"batch_size={batch_size} must be at least 1; raise it")
    if buffer_vectors < batch_size:
        raise UserError(
            f"buffer_vectors={buffer_vectors} is below batch_size={batch_size}; raise the buffer"
        )
    lanes = math.gcd(batch_size, LANES)
    if lanes % world_size:
        raise UserError(
            f"{world_size} processes cannot share batches of {batch_size}, which have {lanes} equal"
            f" parts; take a number of processes that divides {LANES}, and a batch size that is a"
            " multiple of it"
        )


def pictures_needed(
    steps: int, *, images: int, positions: int, batch_size: int, buffer_vectors: int
) -> int:
    """Pictures that the chunks of the first `steps` batches are made of, epoch after epoch.

    An example: 10 pictures of 4 vectors, batches of 5, a buffer of 20. An epoch has 8 batches in 2
    chunks of 5 pictures. 9 steps need an epoch and the first chunk of the next:

    >>> pictures_needed(9, images=10, positions=4, batch_size=5, buffer_vectors=20)
    15

    Raises:
        UserError: the buffer is smaller than a batch.
    """
    check_sizes(batch_size=batch_size, buffer_vectors=buffer_vectors)
    vectors = images * positions
    epochs, rest = divmod(steps, math.ceil(vectors / batch_size))
    whole = buffer_vectors // batch_size
    begun = min(vectors, math.ceil(rest / whole) * whole * batch_size)
    return epochs * images + math.ceil(begun / positions)
