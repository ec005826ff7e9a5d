"""The fast index gives the same members as tarfile, and leaves unusual headers to it."""

import io
import mmap
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusae.activations.hashed_tar import hashed_tar
from diffusae.activations.tar_index import Member, members_of, read_members
from fuzz.mutations import tar_headers, with_checksum
from tars import tar_of


def mapped(path: Path) -> mmap.mmap:
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def by_tarfile(path: Path) -> list[Member]:
    with tarfile.open(path) as tar:
        return [Member(member.name, member.offset_data, member.size) for member in tar]


def contents_by_tarfile(path: Path) -> list[tuple[str, bytes]]:
    with tarfile.open(path) as tar:
        files = ((member.name, tar.extractfile(member)) for member in tar)
        return [(name, file.read()) for name, file in files if file is not None]


@given(sizes=st.lists(st.integers(0, 2000), max_size=8))
def test_our_tars_are_indexed_as_tarfile_does(tmp_path_factory, sizes):
    path = tmp_path_factory.mktemp("tar") / "a.tar"
    with hashed_tar(path) as tar:
        for number, size in enumerate(sizes):
            tar.add(f"k{number}", npy=bytes(size), json=b"{}")
    assert members_of(mapped(path)) == by_tarfile(path)
    assert len(by_tarfile(path)) == 2 * len(sizes)
    with open(path, "rb") as file:
        assert list(read_members(file)) == contents_by_tarfile(path)


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


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_plain_members_before_and_after_an_unusual_one_are_read_in_their_order(tmp_path, form):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=form) as tar:
        for number, name in enumerate(
            ("first.npy", "d" * 90 + "/" + "x" * 60 + ".npy", "last.json")
        ):
            info = tarfile.TarInfo(name)
            info.size = 700 + number
            tar.addfile(info, io.BytesIO(bytes([number]) * info.size))
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
    with open(path, "rb") as file:
        members = list(read_members(file))
    assert members == contents_by_tarfile(path)
    assert [len(data) for _, data in members[:3]] == [700, 701, 702]


def test_a_flipped_header_and_a_missing_end_are_damage(tmp_path):
    path = tmp_path / "a.tar"
    with hashed_tar(path) as tar:
        tar.add("a", npy=bytes(1000))
    content = bytearray(path.read_bytes())
    content[3] ^= 1
    path.write_bytes(content)
    with pytest.raises(tarfile.TarError):
        members_of(mapped(path))
    with pytest.raises(tarfile.TarError), open(path, "rb") as file:
        list(read_members(file))
    content[3] ^= 1
    for length, message in (
        (512 + 1024, "no end mark"),
        (512 + 1024 + 100, "no end mark"),
        (700, "'a.npy' is cut"),
    ):
        path.write_bytes(content[:length])
        with pytest.raises(tarfile.ReadError, match=message):
            members_of(mapped(path))


@pytest.mark.parametrize(
    "size", [b"-0000001024\0", b"\xff" * 10 + b"\xfe\x00", b"77777777777\0", b"\x80" + b"\x7f" * 11]
)
@pytest.mark.parametrize("number", [0, 1])
def test_a_size_below_0_or_beyond_the_file_is_damage_and_no_endless_loop(tmp_path, size, number):
    path = tmp_path / "a.tar"
    with hashed_tar(path) as tar:
        tar.add("a", npy=bytes(1000), json=b"{}")
    content = path.read_bytes()
    start = tar_headers(content)[number]
    header = content[start : start + 124] + size + content[start + 136 : start + 512]
    path.write_bytes(content[:start] + with_checksum(header) + content[start + 512 :])
    with pytest.raises(tarfile.TarError):
        members_of(mapped(path))
    with pytest.raises(tarfile.TarError), open(path, "rb") as file:
        list(read_members(file))


def test_a_damaged_header_after_an_unusual_member_is_damage(tmp_path):
    path = tmp_path / "a.tar"
    names = ("x" * 150, "second", "third")
    content = bytearray(tar_of([(name, bytes(10)) for name in names], tarfile.GNU_FORMAT))
    content[content.index(b"third")] ^= 1  # here tarfile stops without a word
    path.write_bytes(content)
    with pytest.raises(tarfile.ReadError, match="the header at byte 3072 is damaged"):
        members_of(mapped(path))
    with pytest.raises(tarfile.ReadError, match="is damaged"), open(path, "rb") as file:
        list(read_members(file))
