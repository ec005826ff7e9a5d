"""The members of a tar: where they lie in memory, or one after the other from a file."""

from __future__ import annotations

import mmap
import tarfile
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

_BLOCK = tarfile.BLOCKSIZE
_END = bytes(_BLOCK)


class Member(NamedTuple):
    """A file in a tar: its bytes are `size` from `offset` on."""

    name: str
    offset: int
    size: int


def members_of(tar: mmap.mmap) -> list[Member]:
    """All members, in their order.

    Plain headers, which are all that our writer makes, are read here, ten times as fast as by tarfile; a tar with
    anything else (links, long names, sparse files) goes through tarfile.

    Raises:
        tarfile.TarError: it is cut or damaged.
    """
    found: list[Member] = []
    offset = 0
    while offset < len(tar):
        header = tar[offset : offset + _BLOCK]
        if len(header) < _BLOCK:
            break
        if header == _END:
            return found
        member = _plain(header, offset + _BLOCK)
        if member is None:
            return _by_tarfile(tar)
        found.append(member)
        offset = member.offset + -(-member.size // _BLOCK) * _BLOCK
    raise tarfile.ReadError("it has no end mark")


def read_members(file: BinaryIO) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of every regular file of a tar, in their order; bytes are copied once, where tarfile's stream copies
    them four times. From the first header on that is not plain, tarfile reads.

    Raises:
        tarfile.TarError: it is cut or damaged.
    """
    while True:
        start = file.tell()
        header = file.read(_BLOCK)
        if header == _END:
            return
        if len(header) < _BLOCK:
            raise tarfile.ReadError("it has no end mark")
        member = _plain(header, start + _BLOCK)
        if member is None:
            break
        padding = -member.size % _BLOCK
        data = file.read(member.size)
        if len(data) < member.size or len(file.read(padding)) < padding:
            raise tarfile.ReadError(f"{member.name} is cut")
        yield member.name, data
    file.seek(start)
    with tarfile.open(fileobj=file, mode="r:") as opened:
        for each in opened:
            if (content := opened.extractfile(each)) is not None:
                yield each.name, content.read()


def _plain(header: bytes, start: int) -> Member | None:
    """The member of a plain header of a regular file; None for any other."""
    try:
        size, checksum = (int(header[a:b].rstrip(b" \0"), 8) for a, b in ((124, 136), (148, 156)))
    except ValueError:
        return None
    # The sum is taken with the checksum's own 8 bytes as blanks.
    if sum(header) - sum(header[148:156]) + 8 * 32 != checksum:
        return None
    if header[156:157] not in (b"0", b"\0") or header[345] or b"\0" not in header[:100]:
        return None
    return Member(header[:100].split(b"\0", 1)[0].decode(), start, size)


def _by_tarfile(tar: mmap.mmap) -> list[Member]:
    with tarfile.open(fileobj=tar, mode="r:") as opened:
        return [Member(member.name, member.offset_data, member.size) for member in opened]
