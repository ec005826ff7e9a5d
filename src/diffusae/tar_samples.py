"""Strict reading of a user's WebDataset tar. Members are grouped into samples.

`tarfile` stops silently at a header that it cannot read, and follows links and sparse maps. Here
these are faults that name their place. `tarfile.TarInfo` reads the headers themselves.
"""

from __future__ import annotations

import tarfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple

from diffusae.errors import UserError

_BLOCK = tarfile.BLOCKSIZE
_END = bytes(_BLOCK)
MOST_TEXT_BYTES = 2**20
"""Limit of a caption, a label, a JSON member or a long name."""

_REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE)
_ABOUT_THE_NEXT = (*_PAX, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_REFUSED = {
    tarfile.GNUTYPE_SPARSE: "is sparse; write the tar without --sparse",
    tarfile.LNKTYPE: "is a link; write the tar with --hard-dereference",
    tarfile.SYMTYPE: "is a link; write the tar with --dereference",
    tarfile.CHRTYPE: "is a device; leave it out",
    tarfile.BLKTYPE: "is a device; leave it out",
    tarfile.FIFOTYPE: "is a pipe; leave it out",
}


class TarFault(UserError):
    """A fault of a tar. The message has the place in the tar, but not the tar's name."""


class Member(NamedTuple):
    """A regular file in a tar: its bytes are `size` from `offset` on."""

    name: str
    offset: int
    size: int


@dataclass
class Sample:
    """The members of one key by extension, and the bytes of the members that are read.

    As in WebDataset, the first dot of a file name ends the key and begins the extension.
    """

    key: str
    members: dict[str, Member] = field(default_factory=dict)
    data: dict[str, bytes] = field(default_factory=dict)

    @property
    def described(self) -> str:
        """The sample's members, for a message. Explains keys, since dots in names may mislead."""
        name = next(iter(self.members.values())).name
        extension = name.rpartition("/")[2].partition(".")[2]
        return (
            f"only {', '.join(sorted(self.members))[:200]} (the key ends at the first dot of a"
            f" name: {name!r} has the key {self.key!r} and the extension {extension!r}; rename the"
            " members if another key is meant)"
        )


class TarSamples:
    """The samples of a tar, in order.

    Args:
        file: open at the tar's beginning; need not be seekable.
        read: extensions of the members whose bytes are read.
    """

    def __init__(self, file: BinaryIO, read: Collection[str]) -> None:
        self._file, self._read = file, read
        self.passed_over: list[str] = []
        """The first three members that belong to no sample: hidden (macOS writes `._` files) or
        without an extension."""
        self.passed_over_count = 0

    def __iter__(self) -> Iterator[Sample]:
        """`TarFault` if the tar is damaged or a sample is not in one piece. Earlier samples are
        whole."""
        sample: Sample | None = None
        keys: set[str] = set()
        members = read_members(self._file)
        while True:
            try:
                member = next(members, None)
            except TarFault:
                if sample is not None:
                    yield sample
                raise
            if member is None:
                break
            if (named := key_of(member.name)) is None:
                self._pass_over(member.name)
                continue
            key, extension = named
            if sample is None or key != sample.key:
                if sample is not None:
                    yield sample
                if key in keys:
                    raise TarFault(
                        f"the key {key!r} comes twice or interleaved with others (again at byte "
                        f"{member.offset - _BLOCK}); the members of a sample must be adjacent: "
                        "write the tar anew, sorted (tar --sort=name)"
                    )
                keys.add(key)
                sample = Sample(key)
            if extension in sample.members:
                raise TarFault(
                    f"the member {member.name!r} comes twice; write the tar anew with one of them"
                )
            sample.members[extension] = member
            if extension in self._read:
                sample.data[extension] = self._text(member)
        if sample is not None:
            yield sample

    def _text(self, member: Member) -> bytes:
        if member.size > MOST_TEXT_BYTES:
            raise TarFault(
                f"the member {member.name!r} has {member.size} bytes, but a text has at most "
                f"{MOST_TEXT_BYTES}; mend it"
            )
        data = self._file.read(member.size)
        if len(data) < member.size:
            raise TarFault(
                f"it is cut in the member {member.name!r} at byte {member.offset + len(data)}; copy"
                " it again"
            )
        return data

    def _pass_over(self, name: str) -> None:
        self.passed_over_count += 1
        if len(self.passed_over) < 3:
            self.passed_over.append(name)


def key_of(name: str) -> tuple[str, str] | None:
    """(key, extension in lower case) of a member; None if it belongs to no sample."""
    folder, slash, file = name.rpartition("/")
    stem, _, extension = file.partition(".")
    if not stem or not extension or is_hidden(name):
        return None
    return folder + slash + stem, extension.lower()


def is_hidden(name: str) -> bool:
    """Whether a path has a hidden file or folder, or one that macOS adds to archives."""
    return any(
        (part.startswith(".") and part != ".") or part == "__MACOSX" for part in name.split("/")
    )


def read_members(file: BinaryIO) -> Iterator[Member]:
    """The regular files of a tar. At each yield, `file` is at the first byte of the member.

    Raises:
        TarFault: a header is damaged, the tar is cut or has no end mark, bytes follow the end mark,
            or a member is a link, a device or sparse, or its name leads out of the tar.
    """
    length = _length(file)
    at, name = 0, ""
    while (header := file.read(_BLOCK)) != _END:
        info = _header(header, at)
        start = at + _BLOCK
        size = info.size if info.isreg() or info.type in _ABOUT_THE_NEXT else 0
        if info.type in _ABOUT_THE_NEXT:
            if size > MOST_TEXT_BYTES:
                raise TarFault(
                    f"the header at byte {at} is damaged: {size} bytes of a member's name; copy it"
                    " again"
                )
            data = file.read(size)
            _require(len(data) == size, f"it is cut in the header at byte {at}; copy it again")
            if info.type in _PAX:
                name = _pax_name(data, at, is_global=info.type == tarfile.XGLTYPE) or name
            elif info.type == tarfile.GNUTYPE_LONGNAME:
                name = data.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
        else:
            member = Member(name or info.name, start, size)
            name = ""
            _check(member, info.type, length)
            if info.type in _REGULAR:
                yield member
        at = start + -(-size // _BLOCK) * _BLOCK
        _go_to(file, at, info.name)
    _require_nothing_more(file, at)


def _header(header: bytes, at: int) -> tarfile.TarInfo:
    if not header:
        raise TarFault(
            "it is empty; copy it again"
            if at == 0
            else f"it ends at byte {at} without an end mark, so it is cut; copy it again"
        )
    try:
        info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise TarFault(
            f"the header at byte {at} cannot be read ({error}), so the tar is cut or damaged here;"
            " copy it again"
        ) from error
    _require(
        info.size >= 0,
        f"the header at byte {at} is damaged: a size of {info.size} bytes; copy it again",
    )
    return info


def _check(member: Member, kind: bytes, length: int | None) -> None:
    name = member.name
    try:
        name.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TarFault(f"the name of the member {name!r} is not UTF-8; rename it") from error
    if kind not in (*_REGULAR, tarfile.DIRTYPE):
        raise TarFault(
            f"the member {name!r}"
            f" {_REFUSED.get(kind, f'has the unknown type {kind!r}; leave it out')}"
        )
    if not name or name.startswith("/") or ".." in name.split("/"):
        raise TarFault(
            f"the name of the member {name!r} is empty or leads out of the tar; rename it"
        )
    if kind != tarfile.DIRTYPE and length is not None and member.offset + member.size > length:
        raise TarFault(
            f"it is cut or damaged: the member {name!r} has {member.size} bytes from byte"
            f" {member.offset} on, the tar ends at {length}; copy it again"
        )


def _pax_name(data: bytes, at: int, *, is_global: bool) -> str:
    """The name in a PAX header's records; "" if it has none."""
    records: dict[bytes, bytes] = {}
    while data:
        length, blank, _ = data.partition(b" ")
        end = int(length) if length.isdigit() and len(length) < 8 else 0
        key, equals, value = data[len(length) + 1 : end].partition(b"=")
        _require(
            bool(blank and equals) and value.endswith(b"\n") and end <= len(data),
            f"the header at byte {at} is damaged",
        )
        records[key] = value[:-1]
        data = data[end:]
    _require(
        not any(key.startswith(b"GNU.sparse") for key in records),
        f"the member at byte {at} is sparse; write the tar without --sparse",
    )
    _require(b"size" not in records, f"the member at byte {at} has more than 8 GiB; leave it out")
    _require(
        not (is_global and b"path" in records),
        f"the header at byte {at} gives one name to all members; write the tar anew",
    )
    return records.get(b"path", b"").decode("utf-8", "surrogateescape")


def _length(file: BinaryIO) -> int | None:
    """The length of a file in bytes; None of a stream."""
    if not file.seekable():
        return None
    length = file.seek(0, 2)
    file.seek(0)
    return length


def _go_to(file: BinaryIO, at: int, name: str) -> None:
    if file.seekable():
        file.seek(at)
        return
    while (here := file.tell()) < at:
        _require(
            bool(file.read(min(2**20, at - here))),
            f"it is cut in the member {name!r} at byte {here}; copy it again",
        )


def _require_nothing_more(file: BinaryIO, at: int) -> None:
    place = at + _BLOCK
    while block := file.read(2**16):
        if block.strip(b"\0"):
            place += len(block) - len(block.lstrip(b"\0"))
            raise TarFault(
                f"bytes follow the end mark at byte {at} (the first at byte {place}), as in a"
                " damaged tar or in two joined ones; copy it again, or give the tars one by one"
            )
        place += len(block)


def _require(holds: bool, fault: str) -> None:
    if not holds:
        raise TarFault(fault)
