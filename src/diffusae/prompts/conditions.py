"""Conditions on other columns than the caption, such as "aesthetic >= 6": values are compared by
their type."""

from __future__ import annotations

import datetime
import math
import operator
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from diffusae.errors import UserError

_COMPARISONS: Mapping[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "!=": operator.ne,
    "==": operator.eq,
    ">": operator.gt,
    "<": operator.lt,
}
_CONDITION = re.compile(r"\s*([^<>=!]+?)\s*(>=|<=|!=|==|>|<)\s*([^<>=!\s].*?)\s*", re.DOTALL)
_NUMBER = re.compile(
    r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?|[+-]?inf(inity)?", re.IGNORECASE
)
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}.*", re.DOTALL)
_BOOLEANS = {"true": True, "false": False}
_REMEDIES = {
    "booleans": "compare with true or false, by == or !=",
    "numbers": "compare with a number",
    "dates": (
        "compare with a date such as 2024-05-31, with a time zone only where the column has one"
    ),
    "text": "compare with text",
}


class Condition:
    """COLUMN SIGN VALUE. What the comparison is follows from the column's values:

    - booleans: with true or false, by == and !=;
    - numbers: with a number, by all signs;
    - dates and times: with an ISO date or time, by all signs;
    - text (all columns of CSV): as a boolean, number or date where it reads like one; text that
      does not is compared as text, by == and != and whatever the case, and is not in any order with
      a number or date. A value in quotes is always text.

    Args:
        text: the condition.

    Raises:
        UserError: it is no condition, or a sign that orders is used with what has no order.
    """

    def __init__(self, text: object) -> None:
        found = _CONDITION.fullmatch(str(text))
        if found is None:
            raise UserError(
                f"prompts.where: {text!r} must be COLUMN SIGN VALUE, such as 'aesthetic >= 6'"
            )
        self.name, self.sign, value = found.groups()
        self.quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
        self.value = value[1:-1] if self.quoted else value
        self.number = None if self.quoted else _number(self.value)
        self.time = None if self.quoted else _time(self.value)
        self.boolean = None if self.quoted else _BOOLEANS.get(self.value.casefold())
        if self.value.casefold() in ("nan", "null") and not self.quoted:
            raise UserError(
                f"prompts.where: {text!r} asks for no value; rows without one are left out by any"
                " condition on the column"
            )
        if sign_orders(self.sign) and self.number is None and self.time is None:
            raise UserError(
                f"prompts.where: {text!r} compares by {self.sign} with what is no number or date;"
                " use == or !="
            )
        self._compare = _COMPARISONS[self.sign]
        self._kind = ""

    def __str__(self) -> str:
        return f"{self.name} {self.sign} {self.value}"

    def holds(self, found: Any) -> bool:
        """Whether a value that is not missing fulfils the condition.

        Raises:
            UserError: it is of a kind that the condition's value cannot be compared with, or of
                another kind than the values before it.
        """
        kind = _kind(found)
        if self._kind not in ("", kind):
            raise UserError(
                f"the column {self.name!r} holds {kind} here ({_shown(found)}) and {self._kind}"
                " before; write it with one type"
            )
        self._kind = kind
        if kind == "text":
            return self._holds_for_text(str(found).strip())
        value = {"booleans": self.boolean, "numbers": self.number, "dates": self.time}.get(kind)
        if value is None or (kind == "booleans" and sign_orders(self.sign)):
            raise self._mismatch(kind, found)
        if kind == "dates":
            found, value = self._times(found, value)
        return self._compare(found, value)

    def _holds_for_text(self, found: str) -> bool:
        if self.quoted:
            return self._compare(found.casefold(), self.value.casefold())
        reads = {
            "booleans": _BOOLEANS.get(found.casefold()),
            "numbers": _number(found),
            "dates": _time(found),
        }
        values = {"booleans": self.boolean, "numbers": self.number, "dates": self.time}
        for kind, ours in reads.items():
            if ours is not None:
                if (theirs := values[kind]) is None:
                    raise self._mismatch(f"{kind} as text", found)
                return self._compare(
                    *(self._times(ours, theirs) if kind == "dates" else (ours, theirs))
                )
        if self.boolean is not None:
            raise self._mismatch("text", found)
        return not sign_orders(self.sign) and self._compare(found.casefold(), self.value.casefold())

    def _times(self, found: Any, value: Any) -> tuple[datetime.datetime, datetime.datetime]:
        """Both as a moment; a value without a time zone has that of the column."""
        if not isinstance(found, datetime.datetime):
            found = datetime.datetime(found.year, found.month, found.day)
        if value.tzinfo is None:
            value = value.replace(tzinfo=found.tzinfo)
        if found.tzinfo is None and value.tzinfo is not None:
            raise self._mismatch("dates", found)
        return found, value

    def _mismatch(self, kind: str, found: Any) -> UserError:
        remedy = _REMEDIES.get(kind.removesuffix(" as text"), "choose another column")
        return UserError(
            f"prompts.where: {str(self)!r} does not suit the column {self.name!r}, which holds"
            f" {kind} ({_shown(found)});"
            f" {remedy}{'; quotes around the value make it text' if kind.endswith('text') else ''}"
        )


def sign_orders(sign: str) -> bool:
    """Whether a sign asks for an order, not for equality alone."""
    return sign not in ("==", "!=")


def is_missing(found: Any) -> bool:
    """Whether a row has no value: null, NaN, or empty text."""
    if isinstance(found, float | Decimal):
        return math.isnan(found)
    return found is None or (isinstance(found, str) and found.strip().casefold() in ("", "nan"))


def _kind(found: Any) -> str:
    if isinstance(found, bool):
        return "booleans"
    if isinstance(found, int | float | Decimal):
        return "numbers"
    if isinstance(found, datetime.date):
        return "dates"
    if isinstance(found, str):
        return "text"
    return {list: "lists", dict: "objects"}.get(
        type(found), f"values of type {type(found).__name__}"
    )


def _shown(found: Any) -> str:
    try:
        text = ascii(found) if isinstance(found, str) else str(found)
    except ValueError:  # Python prints no numbers of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _number(text: str) -> int | float | None:
    if not _NUMBER.fullmatch(text):
        return None
    try:
        return int(text)
    except ValueError:
        return float(text)


def _time(text: str) -> datetime.datetime | None:
    try:
        return datetime.datetime.fromisoformat(text) if _DATE.fullmatch(text) else None
    except ValueError:
        return None
