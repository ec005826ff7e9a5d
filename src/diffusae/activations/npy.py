"""Arrays to the bytes of .npy files and back, with few copies and never with pickle."""

from __future__ import annotations

import io
import math
from functools import lru_cache
from typing import Any

import numpy as np

_KINDS = "biuf"
"""Kinds of numbers that are read: booleans, whole numbers, floats."""


def npy_bytes(array: np.ndarray) -> bytes:
    """The array as an .npy file."""
    header = io.BytesIO()
    array = np.asarray(array, order="C")
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    return b"".join((header.getvalue(), array.data.cast("B") if array.size else b""))


def npy_array(data: bytes | memoryview) -> np.ndarray[Any, Any]:
    """The array of an .npy file, as a view of `data`. `ValueError` for all else, also pickles."""
    dtype, shape, offset = npy_header(data)
    size = math.prod(shape) * dtype.itemsize
    if size != len(data) - offset:
        raise ValueError(f"{dtype} {shape} takes {size} bytes, there are {len(data) - offset}")
    return np.frombuffer(data, dtype=dtype, count=math.prod(shape), offset=offset).reshape(shape)


def npy_header(data: bytes | memoryview) -> tuple[np.dtype, tuple[int, ...], int]:
    """Type, shape and offset of the numbers in an .npy file, from its first bytes.

    Raises:
        ValueError: it is not an .npy file of version 1.0 in C order with plain numbers in this
            machine's byte order.
    """
    return _parsed(bytes(data[: 10 + int.from_bytes(data[8:10], "little")]))


@lru_cache(maxsize=64)  # the arrays of a shard have equal headers, and parsing is slow
def _parsed(header: bytes) -> tuple[np.dtype, tuple[int, ...], int]:
    file = io.BytesIO(header)
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise ValueError(f"version {version} of the .npy format; 1.0 is read")
    try:
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    except Exception as error:
        # NumPy evaluates the header as Python, which may raise anything
        what = f"{type(error).__name__}: {str(error)[:200]}"
        raise ValueError(f"its header is damaged ({what})") from error
    if fortran or dtype.kind not in _KINDS or dtype.subdtype or not dtype.isnative:
        raise ValueError(f"an array of {dtype} {'in Fortran order ' if fortran else ''}is not read")
    if any(type(side) is not int or side < 0 for side in shape):
        raise ValueError(f"the shape {shape} is not made of whole numbers from 0")
    return dtype, shape, len(header)
