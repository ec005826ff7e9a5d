"""Captions from text, CSV, JSONL, Parquet and WebDataset tars, read as a stream of rows."""

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
"""Rows of a Parquet file that are in memory at once."""
COMPRESSED = (".gz", ".bz2", ".xz")
_MAGIC: Mapping[str, tuple[int, bytes]] = {"parquet": (0, b"PAR1"), "webdataset": (257, b"ustar")}


class Format(NamedTuple):
    """A format of files: its suffixes, the default column of captions, and the reader."""

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
    """The format of this name, or of the file's suffix (before `.gz`, `.bz2` or `.xz`).

    Raises:
        UserError: the name or suffix is unknown.
    """
    if name is not None:
        if name not in FORMATS:
            raise unknown("format of captions (prompts.format):", name, FORMATS)
        return name
    suffix = Path(path.stem if path.suffix.lower() in COMPRESSED else path.name).suffix.lower()
    for known, format in FORMATS.items():
        if suffix in format.suffixes:
            return known
    listed = ", ".join(f"{name} ({' '.join(format.suffixes)})" for name, format in FORMATS.items())
    hint = " JSON is read as one object per line (jsonl)." if suffix == ".json" else ""
    raise UserError(
        f"{path}: the suffix {suffix!r} is of no known format; set prompts.format to one of: "
        f"{listed}.{hint}"
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
    """All rows of a file in order, good and bad.

    Args:
        column: the column, key or member with the caption. None: the format's default.
        fields: further columns to read.
        delimiter: delimiter of CSV. None: a comma, in .tsv a tab.
        encoding: encoding of text, CSV, JSON lines and a tar's members, one of `ENCODINGS`.

    Raises:
        UserError: the column is missing, or the file has another encoding or format or is damaged.
    """
    name = format_of(path, format)
    known = FORMATS[name]
    if known.column is None and (column or fields):
        raise UserError(f"{path}: text has no columns; leave prompts.column and prompts.where out")
    if delimiter is not None and name != "csv":
        raise UserError(
            f"{path}: prompts.delimiter is for CSV, this is {name}; leave it out, or set "
            "prompts.format=csv"
        )
    if encoding != UTF_8 and name == "parquet":
        raise UserError(f"{path}: Parquet is always UTF-8; leave prompts.encoding out")
    try:
        _check_kind(path, name)
        how = Reading(column or known.column or "", fields, delimiter, encoding, ROWS_AT_ONCE)
        for row in known.read(path, how):
            fault = caption_fault(row.text) if row.text and not row.fault else ""
            yield row._replace(fault=fault) if fault else row
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror or error}); let this user read it, or copy it "
            "again"
        ) from error


def check_whole(path: Path, *, format: str | None) -> None:
    """Check the part of a file after the last needed caption.

    A tar is read to its end mark, a compressed file to its checksum. Other files cannot be checked.

    Raises:
        UserError: the file is cut or damaged.
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
            f"{path} is compressed by {compression_of(head)}, but Parquet compresses inside; "
            "unpack it"
        )
    for other, (place, magic) in _MAGIC.items():
        if other != name and head[place:].startswith(magic):
            raise UserError(
                f"{path} is a file of the format {other}, not {name}; set prompts.format={other}"
            )
