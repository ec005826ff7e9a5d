"""Captions in CSV with a header."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from diffusae.errors import UserError, unknown
from diffusae.prompts.caption_text import untyped_fault
from diffusae.prompts.encodings import not_decoded
from diffusae.prompts.line_files import lines
from diffusae.prompts.rows import Reading, Row

DELIMITERS = (",", ";", "\t", "|")
_SPELT = {"\\t": "\t", "tab": "\t"}


def delimiter_of(value: object) -> str:
    """A delimiter from the configuration: one character, `tab` or `\\t`; `UserError` otherwise."""
    delimiter = _SPELT.get(value, value) if isinstance(value, str) else ""
    if len(delimiter) != 1 or delimiter in '\r\n"':
        raise UserError(f"prompts.delimiter={value!r} must be one character, such as ';', or tab")
    return delimiter


def csv_rows(path: Path, how: Reading) -> Iterator[Row]:
    """One caption per row. A row with quoted fields may have several lines."""
    delimiter = how.delimiter or ("\t" if ".tsv" in (s.lower() for s in path.suffixes) else ",")
    source = lines(path, how.encoding)
    first = next(source, "")
    reader = csv.reader(chain([first], source), delimiter=delimiter, strict=True)
    line = 1
    try:
        header = [name.strip() for name in next(reader, [])]
        for name in how.names:
            require_once(path, header, name, otherwise=_other_delimiter(first, name, delimiter))
        places = [header.index(name) for name in (how.column, *how.fields)]
        line = reader.line_num + 1
        for row in reader:
            where, line = f"line {line}", reader.line_num + 1
            if len(row) != len(header) and row:
                count = f"{len(row)} field{'s' * (len(row) != 1)}, but the header has {len(header)}"
                yield Row(where, "", f"{count}; quote captions with {delimiter!r}")
                continue
            cells = [row[place] for place in places] if row else [""]
            bad = any(not cell.isascii() and not_decoded(cell, how.encoding) for cell in cells)
            fault = f"not {how.encoding.upper()}; save the file as UTF-8" if bad else ""
            fields = dict(zip(how.fields, cells[1:], strict=False))
            yield Row(where, "" if fault else cells[0], fault or untyped_fault(cells[0]), fields)
    except csv.Error as error:
        if line == 1 and (remedy := _other_delimiter(first, how.column, delimiter)):
            raise UserError(f"{path}: {remedy}") from error
        fault = f"not CSV ({error}); nothing after it is read; mend the quotes"
        yield Row(f"line {line}", "", fault, ends=True)


def require_once(path: Path, columns: Sequence[str], name: str, otherwise: str = "") -> None:
    """`UserError` unless a file has exactly one column of this name. `otherwise`: a better
    remedy."""
    if columns.count(name) > 1:
        raise UserError(f"{path} has the column {name!r} more than once; rename all but one")
    if name not in columns:
        shown = [ascii(column[:80])[1:-1] for column in columns[:50]]
        remedy = f"{unknown('column', name, shown)} Set prompts.column or prompts.where"
        raise UserError(f"{path}: {otherwise or remedy}")


def _other_delimiter(line: str, name: str, delimiter: str) -> str:
    """The remedy if the first line has the column with another delimiter; "" if it has not."""
    line = line.strip()
    if line.lower().startswith("sep="):
        return (
            f"its first line is {line[:20]!a}, which only Excel reads; remove it, and set"
            f" 'prompts.delimiter=\"{line[4:5]}\"'"
        )
    for other in DELIMITERS:
        names = [field.strip(" \"'") for field in line.split(other)]
        if other != delimiter and name in names and len(names) > 1:
            spelt = "tab" if other == "\t" else f'"{other}"'
            header = f"its header {line[:200]!a} is separated by {other!r}"
            return f"{header}; set 'prompts.delimiter={spelt}'"
    return ""
