"""Captions in files: text, CSV, JSONL, Parquet and WebDataset tars, read as a stream, each row with
its place in the file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from diffusae.contents import compression_of, foreign, read_to_end
from diffusae.errors import UserError, unknown
from diffusae.prompts.caption_text import caption_fault
from diffusae.prompts.csv_files import csv_rows
from diffusae.prompts.encodings import UTF_8
from diffusae.prompts.line_files import jsonl_rows, text_rows
from diffusae.prompts.parquet_files import parquet_rows
from diffusae.prompts.rows import Reading, Row
from diffusae.prompts.tar_files import read_tar_to_end, tar_rows

ROWS_AT_ONCE = 16_384
"""Rows of a Parquet file that are in memory at one time."""
COMPRESSED = (".gz", ".bz2", ".xz")
_MAGIC: Mapping[str, tuple[int, bytes]] = {"parquet": (0, b"PAR1"), "webdataset": (257, b"ustar")}


class Format(NamedTuple):
    """How one kind of file is read: suffixes, the column that captions have unless told otherwise,
    and the reader."""

    suffixes: tuple[str, ...]
    column: str | None
    read: Callable[[Path, Reading], Iterator[Row]]


FORMATS: Mapping[str, Format] = {
    "text": Format((".txt", ".text", ".prompts"), None, text_rows),
    "csv": Format((".csv", ".tsv"), "caption", csv_rows),
    "jsonl": Format((".jsonl", ".ndjson"), "caption", jsonl_rows),
    "parquet": Format((".parquet", ".pq"), "caption", parquet_rows),
    "webdataset": Format((".tar", ".tgz"), "txt", tar_rows),
}


def format_of(path: Path, name: str | None = None) -> str:
    """The format of this name, or the one that the suffix tells (`.gz`, `.bz2` and `.xz` are looked
    through).

    Raises:
        UserError: an unknown name or suffix.
    """
    if name is not None:
        if name not in FORMATS:
            raise unknown("format of captions (prompts.format):", name, FORMATS)
        return name
    suffix = Path(path.stem if path.suffix.lower() in COMPRESSED else path.name).suffix.lower()
    for known, format in FORMATS.items():
        if suffix in format.suffixes:
            return known
    told = ", ".join(f"{name} ({' '.join(format.suffixes)})" for name, format in FORMATS.items())
    hint = " Of JSON, one object a line is read (jsonl)." if suffix == ".json" else ""
    raise UserError(
        f"{path}: the suffix {suffix!r} tells no format; set prompts.format to one of:"
        f" {told}.{hint}"
    )


def read_rows(
    path: Path,
    *,
    format: str | None,
    column: str | None,
    fields: Sequence[str] = (),
    delimiter: str | None = None,
    encoding: str = UTF_8,
) -> Iterator[Row]:
    """Every row of a file in its order, good and bad.

    Args:
        column: the column, key or member with the caption; None: the format's usual one.
        fields: further columns to give.
        delimiter: of CSV; None: a comma, in .tsv a tab.
        encoding: of text, CSV, JSON lines and a tar's members, one of `ENCODINGS`.

    Raises:
        UserError: the file has no such column, has another encoding, is damaged, or is no file of
            its format at all.
    """
    name = format_of(path, format)
    found = FORMATS[name]
    if found.column is None and (column or fields):
        raise UserError(
            f"{path}: a text file has no columns; leave prompts.column and prompts.where out"
        )
    if delimiter is not None and name != "csv":
        raise UserError(
            f"{path}: prompts.delimiter is of CSV, this is {name}; leave it out, or set"
            " prompts.format=csv"
        )
    if encoding != UTF_8 and name == "parquet":
        raise UserError(f"{path}: Parquet is always UTF-8; leave prompts.encoding out")
    try:
        _check_kind(path, name)
        how = Reading(column or found.column or "", fields, delimiter, encoding, ROWS_AT_ONCE)
        for row in found.read(path, how):
            fault = caption_fault(row.text) if row.text and not row.fault else ""
            yield row._replace(fault=fault) if fault else row
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror or error}); let this user read it, or copy it"
            " again"
        ) from error


def check_whole(path: Path, *, format: str | None) -> None:
    """Read what tells whether a file is whole, and has not been read because no more captions were
    needed: a tar up to its end mark, a compressed file up to its checksum. Other files tell
    nothing.

    Raises:
        UserError: it is cut or damaged.
    """
    if format_of(path, format) == "webdataset":
        read_tar_to_end(path)
    else:
        read_to_end(path)


def _check_kind(path: Path, name: str) -> None:
    """`UserError` for a file that is empty, or of another kind by its first bytes."""
    with open(path, "rb") as file:
        head = file.read(512)
    if not head:
        raise UserError(f"{path} is empty; copy it again, or give another file")
    if what := foreign(head):
        raise UserError(f"{path} is {what}")
    if name == "parquet" and compression_of(head):
        raise UserError(
            f"{path} is compressed by {compression_of(head)}, which Parquet does inside; unpack it"
        )
    for other, (place, magic) in _MAGIC.items():
        if other != name and head[place:].startswith(magic):
            raise UserError(
                f"{path} is a file of the format {other}, not {name}; set prompts.format={other}"
            )
