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
    """A delimiter as it is set: one character, `tab` or `\\t`.

    Raises:
        UserError: it is something else.
    """
    delimiter = _SPELT.get(value, value) if isinstance(value, str) else ""
    if len(delimiter) != 1 or delimiter in '\r\n"':
        raise UserError(f"prompts.delimiter={value!r} must be one character, such as ';', or tab")
    return delimiter


def csv_rows(path: Path, how: Reading) -> Iterator[Row]:
    """A caption a row; a row may take several lines where its fields are quoted."""
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
                counted = (
                    f"{len(row)} field{'s' * (len(row) != 1)} where the header has {len(header)}"
                )
                yield Row(where, "", f"{counted}; quote captions with {delimiter!r}")
                continue
            text, *others = [row[place] for place in places] if row else [""]
            bad = any(
                not cell.isascii() and not_decoded(cell, how.encoding) for cell in (text, *others)
            )
            fault = f"not {how.encoding.upper()}; save the file as UTF-8" if bad else ""
            yield Row(
                where,
                "" if fault else text,
                fault or untyped_fault(text),
                dict(zip(how.fields, others, strict=False)),
            )
    except csv.Error as error:
        if line == 1 and (remedy := _other_delimiter(first, how.column, delimiter)):
            raise UserError(f"{path}: {remedy}") from error
        yield Row(
            f"line {line}",
            "",
            f"not CSV ({error}); nothing after it is read; mend the quotes",
            ends=True,
        )


def require_once(path: Path, columns: Sequence[str], name: str, otherwise: str = "") -> None:
    """`UserError` unless a file has one column of this name; `otherwise` is a better remedy, where
    one is known."""
    if columns.count(name) > 1:
        raise UserError(f"{path} has the column {name!r} more than once; rename all but one")
    if name not in columns:
        shown = [ascii(column[:80])[1:-1] for column in columns[:50]]
        remedy = (
            otherwise or f"{unknown('column', name, shown)} Set prompts.column or prompts.where"
        )
        raise UserError(f"{path}: {remedy}")


def _other_delimiter(line: str, name: str, delimiter: str) -> str:
    """What to set where the first line has the column under another delimiter; "" where it has
    not."""
    line = line.strip()
    if line.lower().startswith("sep="):
        return (
            f"its first line is {line[:20]!a}, which only Excel reads; remove it, and set"
            f" 'prompts.delimiter=\"{line[4:5]}\"'"
        )
    for other in DELIMITERS:
        if (
            other != delimiter
            and name in (field.strip(" \"'") for field in line.split(other))
            and other in line
        ):
            told = "tab" if other == "\t" else f'"{other}"'
            return (
                f"its header {line[:200]!a} is separated by {other!r}; set"
                f" 'prompts.delimiter={told}'"
            )
    return ""
