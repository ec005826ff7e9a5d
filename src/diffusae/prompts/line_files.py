"""Captions in lines: text, JSON lines, and the lines of CSV."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

from diffusae.contents import json_of, open_contents
from diffusae.errors import UserError
from diffusae.prompts.encodings import MARKED, UTF_8, check_encoding, not_decoded
from diffusae.prompts.rows import Reading, Row, of_object

MOST_LINE = 2**24
"""Limit of a line's characters."""
_HEAD = 2**16


def lines(path: Path, encoding: str) -> Iterator[str]:
    """The lines of a file with their ends (LF, CR LF or CR), without byte order marks.

    Undecodable bytes become halves of surrogate pairs, for `not_decoded`.

    Raises:
        UserError: the file has another encoding, is damaged, or has a line above `MOST_LINE`.
    """
    with open_contents(path) as raw:
        check_encoding(path, raw.peek(_HEAD)[:_HEAD], encoding)
        how = ("utf-8-sig", "surrogateescape") if encoding == UTF_8 else (encoding, MARKED)
        text = io.TextIOWrapper(raw, *how, newline="")
        number = 0
        while line := text.readline(MOST_LINE):
            number += 1
            if len(line) == MOST_LINE and line[-1] not in "\r\n":
                raise UserError(
                    f"{path}, line {number} has more than {MOST_LINE} characters; write one "
                    "caption per line, or set prompts.format"
                )
            yield line.removeprefix("\ufeff")  # joined files have inner marks


def text_rows(path: Path, how: Reading) -> Iterator[Row]:
    """One caption per line."""
    for where, line, fault in _numbered(path, how.encoding):
        yield Row(where, "" if fault else line, fault)


def jsonl_rows(path: Path, how: Reading) -> Iterator[Row]:
    """One JSON object per line."""
    for where, line, fault in _numbered(path, how.encoding):
        if fault or not line.strip():
            yield Row(where, "", fault)
            continue
        try:
            value = json_of(line)
        except ValueError as error:
            opens = line.startswith(("[", "{")) and line.rstrip().endswith(("[", "{", ","))
            if where == "line 1" and opens:
                raise UserError(
                    f"{path} is JSON over several lines; write one object per line, for example "
                    "with `jq -c '.[]'`"
                ) from error
            yield Row(where, "", f"not JSON ({error}); mend the line")
            continue
        yield of_object(where, value, how.column, how.fields)


def _numbered(path: Path, encoding: str) -> Iterator[tuple[str, str, str]]:
    """(place, line without its end, fault) of every line."""
    for number, line in enumerate(lines(path, encoding), start=1):
        fault = "" if line.isascii() else not_decoded(line, encoding)
        yield f"line {number}", line.rstrip("\r\n"), fault
