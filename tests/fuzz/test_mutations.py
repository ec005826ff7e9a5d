"""The strategies give damage that passes a format's outermost check."""

import struct

import torch
from hypothesis import find, given, settings
from safetensors.torch import save

from fuzz.mutations import mutated, mutated_safetensors, mutated_tar, tar_headers, with_checksum
from tars import tar_of


def small_tar() -> bytes:
    return tar_of([("a.json", bytes(600)), ("a.npy", bytes(600))])


def test_headers_of_a_tar_are_found_and_their_checksum_is_that_of_tarfile():
    tar = small_tar()
    assert tar_headers(tar) == [0, 512 + 1024]
    assert with_checksum(tar[:512]) == tar[:512]


@given(mutated_tar(small_tar()))
def test_damaged_tar_headers_keep_a_valid_checksum(data):
    if any(data[:512]):
        assert with_checksum(data[:512]) == data[:512]


def test_headers_of_the_right_length_with_other_contents_are_among_the_damage():
    data = save({"a": torch.zeros(2, 3)})

    def passes(damaged: bytes) -> bool:
        (length,) = struct.unpack("<Q", damaged[:8].ljust(8))
        return damaged != data and length == len(damaged) - 8 - 24

    assert find(mutated_safetensors(data), passes, settings=settings(database=None))


@given(mutated(b"some bytes of a file"))
def test_blind_damage_makes_no_large_file(data):
    assert len(data) < 500
