"""Arrays as the bytes of .npy files and back, without a copy where there need be none, and never
with pickle."""

from __future__ import annotations

import io
import math
from functools import lru_cache
from typing import Any

import numpy as np

_KINDS = "biuf"
"""Kinds of numbers that are read: truth values, whole numbers, floats."""


def npy_bytes(array: np.ndarray) -> bytes:
    """The array as an .npy file."""
    header = io.BytesIO()
    array = np.asarray(array, order="C")
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    return b"".join((header.getvalue(), array.data.cast("B") if array.size else b""))


def npy_array(data: bytes | memoryview) -> np.ndarray[Any, Any]:
    """The array of an .npy file, a view of `data`; `ValueError` for anything else, objects and
    pickles included."""
    dtype, shape, offset = npy_header(data)
    size = math.prod(shape) * dtype.itemsize
    if size != len(data) - offset:
        raise ValueError(f"{dtype} {shape} takes {size} bytes, there are {len(data) - offset}")
    return np.frombuffer(data, dtype=dtype, count=math.prod(shape), offset=offset).reshape(shape)


def npy_header(data: bytes | memoryview) -> tuple[np.dtype, tuple[int, ...], int]:
    """Type, shape and the offset of the numbers of an .npy file of version 1.0, C order, from its
    first bytes.

    Raises:
        ValueError: it is no such file, or holds anything but plain numbers in this machine's byte
            order.
    """
    return _parsed(bytes(data[: 10 + int.from_bytes(data[8:10], "little")]))


# The arrays of a shard are all alike, and parsing costs more than mapping one
@lru_cache(maxsize=64)
def _parsed(header: bytes) -> tuple[np.dtype, tuple[int, ...], int]:
    file = io.BytesIO(header)
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise ValueError(f"version {version} of the .npy format; 1.0 is read")
    try:
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    except Exception as error:
        # NumPy evaluates the header as Python, and every kind of error comes of that
        raise ValueError(
            f"its header is damaged ({type(error).__name__}: {str(error)[:200]})"
        ) from error
    if fortran or dtype.kind not in _KINDS or dtype.subdtype or not dtype.isnative:
        raise ValueError(f"an array of {dtype} {'in Fortran order ' if fortran else ''}is not read")
    if any(type(side) is not int or side < 0 for side in shape):
        raise ValueError(f"the shape {shape} is not made of whole numbers from 0")
    return dtype, shape, len(header)
