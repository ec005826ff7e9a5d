"""The fast index finds what tarfile finds, and leaves the unusual to it."""

import io
import mmap
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusae.activations.hashed_tar import hashed_tar
from diffusae.activations.tar_index import Member, members_of


def mapped(path: Path) -> mmap.mmap:
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def by_tarfile(path: Path) -> list[Member]:
    with tarfile.open(path) as tar:
        return [Member(member.name, member.offset_data, member.size) for member in tar]


@given(sizes=st.lists(st.integers(0, 2000), max_size=8))
def test_our_tars_are_indexed_as_tarfile_does(tmp_path_factory, sizes):
    path = tmp_path_factory.mktemp("tar") / "a.tar"
    with hashed_tar(path) as tar:
        for number, size in enumerate(sizes):
            tar.add(f"k{number}", npy=bytes(size), json=b"{}")
    assert members_of(mapped(path)) == by_tarfile(path)
    assert len(by_tarfile(path)) == 2 * len(sizes)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("name", ["short.npy", "x" * 150 + "/long.npy", "ünicode.npy"])
def test_tars_of_other_writers_are_read_too(tmp_path, form, name):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=form) as tar:
        info = tarfile.TarInfo(name)
        info.size, info.mtime = 700, 1.5 if form == tarfile.PAX_FORMAT else 1
        try:
            tar.addfile(info, io.BytesIO(bytes(700)))
        except ValueError:
            pytest.skip("this format has no such name")
    assert members_of(mapped(path)) == by_tarfile(path)


def test_a_flipped_header_and_a_missing_end_are_damage(tmp_path):
    path = tmp_path / "a.tar"
    with hashed_tar(path) as tar:
        tar.add("a", npy=bytes(1000))
    content = bytearray(path.read_bytes())
    content[3] ^= 1
    path.write_bytes(content)
    with pytest.raises(tarfile.TarError):
        members_of(mapped(path))
    content[3] ^= 1
    for length in (512 + 1024, 512 + 1024 + 100, 700):
        path.write_bytes(content[:length])
        with pytest.raises(tarfile.ReadError, match="no end mark"):
            members_of(mapped(path))
