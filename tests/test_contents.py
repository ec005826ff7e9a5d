"""What a file holds decides how it is opened, not what it is called."""

import bz2
import gzip
import lzma

import pytest

from diffusae import contents
from diffusae.contents import foreign, json_of, open_contents, read_to_end
from diffusae.errors import UserError


@pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_compressed_files_are_read_whatever_their_name_says(tmp_path, compress):
    (tmp_path / "a.gz").write_bytes(compress(b"a red fish\n"))
    with open_contents(tmp_path / "a.gz") as file:
        assert file.read() == b"a red fish\n"


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_a_cut_compressed_file_is_named_when_its_end_is_reached(tmp_path, compress):
    (tmp_path / "a.gz").write_bytes(compress(b"a red fish\n" * 100)[:-5])
    with pytest.raises(UserError, match=r"a.gz is cut or damaged: its .* data cannot be read"):
        read_to_end(tmp_path / "a.gz")


def test_a_flipped_bit_is_found_by_the_checksum(tmp_path):
    data = bytearray(gzip.compress(b"a red fish\n" * 100))
    data[-6] ^= 1
    (tmp_path / "a.gz").write_bytes(data)
    with pytest.raises(UserError, match="is cut or damaged"):
        read_to_end(tmp_path / "a.gz")


def test_a_bomb_is_refused_before_it_fills_anything(tmp_path, monkeypatch):
    monkeypatch.setattr(contents, "FREE_BYTES", 2**16)
    (tmp_path / "a.gz").write_bytes(gzip.compress(bytes(10**6)))
    with pytest.raises(UserError, match="holds more than 200 times its own size"):
        read_to_end(tmp_path / "a.gz")


@pytest.mark.parametrize(
    ("head", "what"),
    [
        (b"\n<!DOCTYPE html>", "a page of HTML"),
        (b"<HTML><body>", "a page of HTML"),
        (b"<?xml version='1.0'?>", "a page of HTML or XML"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"PK\x03\x04", "a zip archive"),
        (b"a fish", ""),
    ],
)
def test_pages_pointers_and_archives_are_told_with_the_remedy(head, what):
    assert what in foreign(head) and bool(what) == bool(foreign(head))


def test_a_page_inside_a_compressed_file_is_told(tmp_path):
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"<html>log in</html>"))
    with pytest.raises(UserError, match="holds a page of HTML"):
        open_contents(tmp_path / "a.gz")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a": 1, "a": 2}', "the key 'a' comes twice"),
        ("1" * 5000, "thousands of digits"),
        ("{", "Expecting"),
    ],
)
def test_json_that_cannot_be_read_says_why(text, why):
    with pytest.raises(ValueError, match=why):
        json_of(text)
