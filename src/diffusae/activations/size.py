"""How many bytes shards take, told before they are written."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

_BLOCK = 512
_RECORD = 20 * _BLOCK
_NPY_HEADER = 128


def npy_size(*shape: int, bytes_per_number: int = 2) -> int:
    """Bytes of an array of this shape as an .npy file, of float16 unless said otherwise."""
    return _NPY_HEADER + bytes_per_number * math.prod(shape)


def tar_size(members: Iterable[int]) -> int:
    """Bytes of a shard with members of these sizes: a header block each, padded to blocks, with two
    empty ones at the end, in records."""
    sizes = np.asarray(
        members if isinstance(members, np.ndarray) else list(members), dtype=np.int64
    )
    blocks = int((_BLOCK + -(-sizes // _BLOCK) * _BLOCK).sum()) + 2 * _BLOCK
    return -(-blocks // _RECORD) * _RECORD
