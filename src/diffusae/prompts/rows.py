"""One caption of a file: what every format's reader gives, and how a value becomes a caption."""

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
    """One caption of a file, or what is wrong with its place: `fault` is empty where the text is
    good.

    `where` is "line 7", "row 7" or "sample 000007"; `fields` are those of the further columns asked
    for that the row has. `ends` says that the file is damaged here and nothing after it can be
    read.
    """

    where: str
    text: str
    fault: str = ""
    fields: Mapping[str, Any] = {}
    ends: bool = False


@dataclass(frozen=True)
class Reading:
    """How a file is read: the column with the caption, further columns, the delimiter of CSV, the
    encoding of text, and the rows of a Parquet file that are in memory at one time."""

    column: str
    fields: Sequence[str] = ()
    delimiter: str | None = None
    encoding: str = "utf-8"
    rows_at_once: int = 1024

    @cached_property
    def names(self) -> tuple[str, ...]:
        """All columns that are read, once each."""
        return tuple(dict.fromkeys((self.column, *self.fields)))


def of_object(where: str, value: Any, column: str, fields: Sequence[str]) -> Row:
    """The row of a JSON object."""
    if not isinstance(value, dict):
        return Row(
            where,
            "",
            f"{kind_of(value)}, not a JSON object; write one object a line, with the caption under"
            f" {column!r}",
        )
    if column not in value:
        has = ", ".join(value)[:200] or "nothing"
        return Row(
            where, "", f"no {column!r}, only {ascii(has)[1:-1]}; set prompts.column or mend it"
        )
    return of_value(
        where, value[column], column, {name: value[name] for name in fields if name in value}
    )


def of_value(where: str, text: Any, column: str, fields: Mapping[str, Any]) -> Row:
    """The row whose caption is this value."""
    if text is None:
        return Row(where, "", "", fields)  # an empty caption, which the caller tells
    if not isinstance(text, str):
        return Row(
            where, "", f"{column!r} is {kind_of(text)}, not text; set prompts.column, or mend it"
        )
    return Row(where, text, "", fields)


def kind_of(value: Any) -> str:
    """What a value is, for a message."""
    return _KINDS.get(
        type(value), "text" if isinstance(value, str) else f"a value of type {type(value).__name__}"
    )
