"""A user's files: their kind is read from the first bytes, not from the name. Compressed files,
JSON."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from diffusae.errors import UserError
from diffusae.parsing import without_doubles

HEAD_BYTES = 4096
"""Enough to tell what a file is."""

FREE_BYTES, MOST_EXPANSION = 2**28, 200
"""A compressed file may hold `FREE_BYTES`. Beyond that, it is refused as a bomb once it holds over
`MOST_EXPANSION` times its own size: text shrinks to a tenth, a bomb to a thousandth."""

_DECOMPRESSORS: Mapping[bytes, tuple[str, Callable[[BinaryIO], Any]]] = {
    b"\x1f\x8b": ("gzip", gzip.open),
    b"BZh": ("bzip2", bz2.open),
    b"\xfd7zXZ\0": ("xz", lzma.open),
}
_FOREIGN: Mapping[bytes, str] = {
    b"version https://git-lfs.github.com/": (
        "a pointer of Git LFS in place of the file; fetch the file with `git lfs pull`"
    ),
    b"PK\x03\x04": "a zip archive; unpack it",
    b"(\xb5/\xfd": "compressed by zstd; unpack it with `zstd -d`, or compress it by gzip",
    b'\x04"M\x18': "compressed by lz4; unpack it, or compress it by gzip",
    b"7z\xbc\xaf'\x1c": "a 7z archive; unpack it",
    b"Rar!": "a rar archive; unpack it",
    b"%PDF-": "a PDF; give another file",
}
_PAGES = (b"<!doctype html", b"<html", b"<?xml", b"<head")


def foreign(head: bytes) -> str:
    """The kind of a file that cannot be read here, with the remedy; "" if the first bytes are fine.

    A failed download, or one that needs a login, often saves an HTML or XML page as the file.
    """
    if head.removeprefix(b"\xef\xbb\xbf").lstrip()[:16].lower().startswith(_PAGES):
        return (
            "a page of HTML or XML (such as a login or error page) in place of the file; download "
            "it again"
        )
    return next((what for magic, what in _FOREIGN.items() if head.startswith(magic)), "")


def compression_of(head: bytes) -> str:
    """gzip, bzip2 or xz; "" for a plain file."""
    return next((name for magic, (name, _) in _DECOMPRESSORS.items() if head.startswith(magic)), "")


def open_contents(path: Path) -> io.BufferedReader[Any]:
    """Open a file as bytes, decompressed if it is compressed; `peek` shows the first bytes.

    Raises:
        UserError: it is a page, an archive or another kind listed in `foreign`. While reading: it
            is cut or damaged, or it is a bomb (`MOST_EXPANSION`).
    """
    file = open(path, "rb")  # noqa: SIM115 - the caller closes it
    try:
        head = file.peek(HEAD_BYTES)[:HEAD_BYTES]
        if what := foreign(head):
            raise UserError(f"{path} is {what}")
        if not compression_of(head):
            return file
        opened = io.BufferedReader(_Decompressed(path, file, head), 2**16)
        if what := foreign(opened.peek(HEAD_BYTES)):
            raise UserError(f"{path} holds {what}")
        return opened
    except BaseException:
        file.close()
        raise


class _Decompressed(io.RawIOBase):
    """The bytes that a compressed file holds; every fault names the file."""

    def __init__(self, path: Path, file: io.BufferedReader[Any], head: bytes) -> None:
        self._path, self._file, self._given = path, file, 0
        self._name = compression_of(head)
        opener = next(opener for name, opener in _DECOMPRESSORS.values() if name == self._name)
        self._inner = opener(file)

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._given

    def readinto(self, buffer: Any) -> int:
        try:
            count = self._inner.readinto(buffer)
        except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, MemoryError) as error:
            reason = str(error) or type(error).__name__
            raise UserError(
                f"{self._path} is cut or damaged: its {self._name} data cannot be read beyond "
                f"decompressed byte {self._given} ({reason}); copy it again"
            ) from error
        self._given += count
        if self._given > FREE_BYTES and self._given > MOST_EXPANSION * self._file.tell():
            raise UserError(
                f"{self._path} holds more than {MOST_EXPANSION} times its own size, like a file "
                "made to fill the memory; if it is meant to, unpack it first"
            )
        return count

    def close(self) -> None:
        if not self.closed:
            self._inner.close()
            self._file.close()
        super().close()


def read_to_end(path: Path) -> None:
    """Read a compressed file to its end, where its checksum is. A plain file is not read.

    Raises:
        UserError: it is cut or damaged.
    """
    with open_contents(path) as file:
        while isinstance(file.raw, _Decompressed) and file.read(2**20):
            pass


def json_of(text: str) -> Any:
    """A JSON value.

    Raises:
        ValueError: it is not JSON, is nested too deeply, or an object has a key twice.
    """
    try:
        return _DECODER.decode(text.removeprefix("\ufeff"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ValueError as error:
        if "int_max_str_digits" in str(error):  # Python's advice is for programmers
            raise ValueError("it has a number of thousands of digits") from None
        raise


_DECODER = json.JSONDecoder(object_pairs_hook=without_doubles)
