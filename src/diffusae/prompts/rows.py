"""Rows of caption files, as the readers of all formats give them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

_KINDS: Mapping[type, str] = {
    bool: "true or false",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "an object",
    type(None): "null",
}


class Row(NamedTuple):
    """One caption of a file, or its `fault` ("" for a good caption).

    `where` is "line 7", "row 7" or "sample 000007". `fields` are the row's values in further
    columns. `ends`: the file is damaged here, and nothing after it can be read.
    """

    where: str
    text: str
    fault: str = ""
    fields: Mapping[str, Any] = {}
    ends: bool = False


@dataclass(frozen=True)
class Reading:
    """How to read a file: the caption's column, further columns, CSV's delimiter, the encoding of
    text, and the Parquet rows in memory at once."""

    column: str
    fields: Sequence[str] = ()
    delimiter: str | None = None
    encoding: str = "utf-8"
    rows_at_once: int = 1024

    @cached_property
    def names(self) -> tuple[str, ...]:
        """All columns that are read, without repeats."""
        return tuple(dict.fromkeys((self.column, *self.fields)))


def of_object(where: str, value: Any, column: str, fields: Sequence[str]) -> Row:
    """The row of a JSON object."""
    if not isinstance(value, dict):
        remedy = f"write one object per line, with the caption under {column!r}"
        return Row(where, "", f"{kind_of(value)}, not a JSON object; {remedy}")
    if column not in value:
        has = ascii(", ".join(value)[:200] or "nothing")[1:-1]
        return Row(where, "", f"no {column!r}, only {has}; set prompts.column or mend it")
    others = {name: value[name] for name in fields if name in value}
    return of_value(where, value[column], column, others)


def of_value(where: str, text: Any, column: str, fields: Mapping[str, Any]) -> Row:
    """The row whose caption is this value."""
    if text is None:
        return Row(where, "", "", fields)  # an empty caption, which the caller reports
    if not isinstance(text, str):
        fault = f"{column!r} is {kind_of(text)}, not text; set prompts.column, or mend it"
        return Row(where, "", fault)
    return Row(where, text, "", fields)


def kind_of(value: Any) -> str:
    """The kind of a value, for a message."""
    other = "text" if isinstance(value, str) else f"a value of type {type(value).__name__}"
    return _KINDS.get(type(value), other)
