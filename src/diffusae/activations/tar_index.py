"""The members of a tar, as places in memory or one after the other from a file."""

from __future__ import annotations

import mmap
import os
import re
import tarfile
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

_BLOCK = tarfile.BLOCKSIZE
_END = bytes(_BLOCK)
_OCTAL = re.compile(rb" *[0-7]+[ \0]*")


class Member(NamedTuple):
    """A file in a tar: `size` bytes from `offset` on."""

    name: str
    offset: int
    size: int


def members_of(tar: mmap.mmap) -> list[Member]:
    """All members, in order.

    Plain headers (our writer makes no others) are read here, ten times as fast as by tarfile. A tar
    with other headers (links, long names) is read by tarfile.

    Raises:
        tarfile.TarError: it is cut or damaged, or has a sparse member or a link.
    """
    members: list[Member] = []
    offset = 0
    while offset < len(tar):
        header = tar[offset : offset + _BLOCK]
        if len(header) < _BLOCK:
            break
        if header == _END:
            return members
        member = _plain(header, offset + _BLOCK)
        if member is None:
            return [
                Member(info.name, info.offset_data, info.size)
                for _, info in _by_tarfile(tar, 0, len(tar))
            ]
        _require_inside(member, len(tar))
        members.append(member)
        offset = member.offset + -(-member.size // _BLOCK) * _BLOCK
    raise tarfile.ReadError("it has no end mark")


def read_members(file: BinaryIO) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of every regular file of a tar, in order.

    Bytes are copied once (by tarfile's stream four times). From the first header that is not plain
    on, tarfile reads.

    Raises:
        tarfile.TarError: it is cut or damaged, or has a sparse member or a link.
    """
    length = file.seek(0, os.SEEK_END)
    file.seek(0)
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
        _require_inside(member, length)
        data = file.read(member.size)
        file.seek(-member.size % _BLOCK, os.SEEK_CUR)
        yield member.name, data
    for opened, info in _by_tarfile(file, start, length):
        if info.isreg() and (content := opened.extractfile(info)) is not None:
            yield info.name, content.read()


def _plain(header: bytes, start: int) -> Member | None:
    """The member of a plain header of a regular file; None for another header."""
    fields = header[124:136], header[148:156]
    if not all(_OCTAL.fullmatch(field) for field in fields):
        return None
    size, checksum = (int(field.rstrip(b" \0"), 8) for field in fields)
    # The sum counts the checksum's own 8 bytes as blanks.
    if sum(header) - sum(header[148:156]) + 8 * 32 != checksum:
        return None
    if header[156:157] not in (b"0", b"\0") or header[345] or b"\0" not in header[:100]:
        return None
    return Member(header[:100].split(b"\0", 1)[0].decode("utf-8", "surrogateescape"), start, size)


def _require_inside(member: Member, length: int) -> None:
    """Refuse a negative size, which would lead backwards, and one beyond the file."""
    if not 0 <= member.size <= length - member.offset:
        raise tarfile.ReadError(
            f"{member.name!r} is cut: {member.size} bytes from byte {member.offset} on, in a file "
            f"of {length}"
        )


def _by_tarfile(
    file: BinaryIO | mmap.mmap, start: int, length: int
) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """The members from byte `start` on. Damage that tarfile overlooks is a `TarError` too."""
    file.seek(start)
    try:
        with tarfile.open(fileobj=file, mode="r:") as opened:  # type: ignore[call-overload]
            for info in opened:
                if info.issparse() or info.islnk() or info.issym():
                    raise tarfile.ReadError(
                        f"{info.name!r} is a sparse file or a link, and must be a plain file"
                    )
                _require_inside(Member(info.name, info.offset_data, info.size), length)
                yield opened, info
            # tarfile stops silently at a damaged header
            file.seek(opened.offset)
            if file.read(_BLOCK) != _END:
                raise tarfile.ReadError(
                    f"the header at byte {opened.offset} is damaged, or it has no end mark"
                )
    except (tarfile.TarError, GeneratorExit):
        raise
    except Exception as error:  # tarfile's arithmetic may raise anything
        raise tarfile.ReadError(f"a header is damaged ({type(error).__name__}: {error})") from error
