"""The sizes of shards in bytes, computed before they are written."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

_BLOCK = 512
_RECORD = 20 * _BLOCK
_NPY_HEADER = 128
_CODES_HEADER = 208  # 70 bytes more than it takes, for what zlib adds to numbers at random


def npy_size(*shape: int, bytes_per_number: int = 2) -> int:
    """Bytes of an .npy file with an array of this shape."""
    return _NPY_HEADER + bytes_per_number * math.prod(shape)


def codes_size(positions: int, active: int, *, d_sae: int, bytes_per_number: int = 2) -> int:
    """Bytes of a picture's stored codes, with so many active latents at every position, at most: as
    if nothing was compressed.
    """
    count, index = (np.min_scalar_type(largest).itemsize for largest in (active, d_sae - 1))
    return _CODES_HEADER + positions * (count + active * (index + bytes_per_number))


def tar_size(members: Iterable[int]) -> int:
    """Bytes of a shard with members of these sizes.

    A member takes a header block and is padded to blocks of 512 bytes. Two empty blocks end the
    tar, which is padded to records of 10,240 bytes. Example: members of 600 and 100 bytes take
    (512 + 1024) + (512 + 512) + 1024 = 3,584 bytes, padded to 10,240.
    """
    sizes = np.asarray(members if isinstance(members, np.ndarray) else list(members), np.int64)
    blocks = int((_BLOCK + -(-sizes // _BLOCK) * _BLOCK).sum()) + 2 * _BLOCK
    return -(-blocks // _RECORD) * _RECORD
