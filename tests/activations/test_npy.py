import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from diffusae.activations.npy import npy_array, npy_bytes

ARRAYS = hnp.arrays(
    dtype=st.sampled_from([np.float16, np.float32, np.uint8, np.int64, np.bool_]),
    shape=hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
)


def saved(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@given(ARRAYS)
def test_bytes_are_those_of_numpy_and_come_back(array):
    assert npy_bytes(array) == saved(array)
    read = npy_array(npy_bytes(array))
    assert (read.dtype, read.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(read, array)


def test_an_array_that_is_not_contiguous_is_written_as_it_looks():
    array = np.arange(12, dtype=np.float16).reshape(3, 4)[:, ::2]
    np.testing.assert_array_equal(npy_array(npy_bytes(array)), array)


def test_reading_makes_no_copy():
    data = npy_bytes(np.zeros(1000))
    assert np.shares_memory(npy_array(data), np.frombuffer(data, dtype=np.uint8))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no array at all",
        saved(np.asfortranarray(np.ones((2, 3)))),
        saved(np.ones(4))[:-1],
        b"\x93NUMPY\x02\x00" + saved(np.ones(2))[8:],
        saved(np.ones(4)) + b"more",
        saved(np.ones(4, dtype=">f2")),
        saved(np.array(["text"])),
        saved(np.zeros(2, dtype=[("a", "<f2")])),
        saved(np.ones((4, 1))).replace(b"(4, 1)", b"(-4,-1"),
        saved(np.ones((4, 1))).replace(b"(4, 1), ", b"((((((((("),
        saved(np.ones(4)).replace(b"(4,)", b"(9999999999,)"),
    ],
)
def test_anything_else_is_refused(data):
    with pytest.raises(ValueError):  # noqa: PT011 - each has its own message, from here or from NumPy
        npy_array(data)


def test_objects_are_refused_before_anything_is_loaded():
    file = io.BytesIO()
    np.save(file, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="an array of object is not read"):
        npy_array(file.getvalue())
