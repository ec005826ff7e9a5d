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
"""Characters of a line that are in memory at one time."""
_HEAD = 2**16


def lines(path: Path, encoding: str) -> Iterator[str]:
    """The lines of a file with their ends (LF, CR LF or CR), without byte order marks.

    Bytes that are none of the encoding's stand as halves of surrogate pairs, which `not_decoded`
    tells.

    Raises:
        UserError: the file has another encoding, is damaged, or has a line of more than `MOST_LINE`
            characters.
    """
    with open_contents(path) as raw:
        check_encoding(path, raw.peek(_HEAD)[:_HEAD], encoding)
        is_utf8 = encoding == UTF_8
        text = io.TextIOWrapper(
            raw,
            "utf-8-sig" if is_utf8 else encoding,
            "surrogateescape" if is_utf8 else MARKED,
            newline="",
        )
        number = 0
        while line := text.readline(MOST_LINE):
            number += 1
            if len(line) == MOST_LINE and line[-1] not in "\r\n":
                raise UserError(
                    f"{path}, line {number} has more than {MOST_LINE} characters; write one caption"
                    " a line, or set prompts.format"
                )
            yield line.removeprefix("\ufeff")  # files that were joined have marks in their middle


def text_rows(path: Path, how: Reading) -> Iterator[Row]:
    """A caption a line."""
    for where, line, fault in _numbered(path, how.encoding):
        yield Row(where, "" if fault else line, fault)


def jsonl_rows(path: Path, how: Reading) -> Iterator[Row]:
    """A JSON object a line."""
    for where, line, fault in _numbered(path, how.encoding):
        if fault or not line.strip():
            yield Row(where, "", fault)
            continue
        try:
            value = json_of(line)
        except ValueError as error:
            if (
                where == "line 1"
                and line.startswith(("[", "{"))
                and line.rstrip().endswith(("[", "{", ","))
            ):
                raise UserError(
                    f"{path} is JSON over several lines; write one object a line, such as with `jq"
                    " -c '.[]'`"
                ) from error
            yield Row(where, "", f"not JSON ({error}); mend the line")
            continue
        yield of_object(where, value, how.column, how.fields)


def _numbered(path: Path, encoding: str) -> Iterator[tuple[str, str, str]]:
    """(where, line without its end, fault)."""
    for number, line in enumerate(lines(path, encoding), start=1):
        fault = "" if line.isascii() else not_decoded(line, encoding)
        yield f"line {number}", line.rstrip("\r\n"), fault
