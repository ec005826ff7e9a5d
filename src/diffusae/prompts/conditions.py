"""Conditions on columns besides the caption, such as "aesthetic >= 6". The type decides how values
are compared."""

from __future__ import annotations

import datetime
import math
import operator
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from diffusae.errors import UserError
from diffusae.prompts.caption_text import NUMBER

_COMPARISONS: Mapping[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "!=": operator.ne,
    "==": operator.eq,
    ">": operator.gt,
    "<": operator.lt,
}
_CONDITION = re.compile(r"\s*([^<>=!]+?)\s*(>=|<=|!=|==|>|<)\s*([^<>=!\s].*?)\s*", re.DOTALL)

_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}.*", re.DOTALL)
_BOOLEANS = {"true": True, "false": False}
_REMEDIES = {
    "booleans": "compare with true or false, by == or !=",
    "numbers": "compare with a number",
    "dates": "compare with a date such as 2024-05-31, with a time zone only if the column has one",
    "text": "compare with text",
}


class Condition:
    """COLUMN SIGN VALUE. The column's values decide how they are compared:

    - booleans: with true or false, by == and !=;
    - numbers: with a number, by all signs;
    - dates and times: with an ISO date or time, by all signs;
    - text (all columns of CSV): as a boolean, number or date if it looks like one, otherwise as
      text in any case, by == and !=. A condition's value in quotes is always text.

    Args:
        text: the condition.

    Raises:
        UserError: it is no condition, or compares by order a value that has none.
    """

    def __init__(self, text: object) -> None:
        match = _CONDITION.fullmatch(str(text))
        if match is None:
            raise UserError(
                f"prompts.where: {text!r} must be COLUMN SIGN VALUE, such as 'aesthetic >= 6'"
            )
        self.name, self.sign, value = match.groups()
        self.quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
        self.value = value[1:-1] if self.quoted else value
        self.number = None if self.quoted else _number(self.value)
        self.time = None if self.quoted else _time(self.value)
        self.boolean = None if self.quoted else _BOOLEANS.get(self.value.casefold())
        if self.value.casefold() in ("nan", "null") and not self.quoted:
            raise UserError(
                f"prompts.where: {text!r} asks for no value; any condition on the column leaves "
                "out rows without a value"
            )
        if sign_orders(self.sign) and self.number is None and self.time is None:
            raise UserError(
                f"prompts.where: {text!r} compares by {self.sign} with a value that is no number "
                "or date; use == or !="
            )
        self._compare = _COMPARISONS[self.sign]
        self._kind = ""

    def __str__(self) -> str:
        return f"{self.name} {self.sign} {self.value}"

    def holds(self, actual: Any) -> bool:
        """Whether a value that is not missing fulfils the condition.

        Raises:
            UserError: its kind cannot be compared with the condition's value, or differs from the
                kind of earlier values.
        """
        kind = _kind(actual)
        if self._kind not in ("", kind):
            raise UserError(
                f"the column {self.name!r} holds {kind} here ({_shown(actual)}) and {self._kind} "
                "before; write it with one type"
            )
        self._kind = kind
        if kind == "text":
            return self._holds_for_text(str(actual).strip())
        value = {"booleans": self.boolean, "numbers": self.number, "dates": self.time}.get(kind)
        if value is None or (kind == "booleans" and sign_orders(self.sign)):
            raise self._mismatch(kind, actual)
        if kind == "dates":
            actual, value = self._times(actual, value)
        return self._compare(actual, value)

    def _holds_for_text(self, actual: str) -> bool:
        if self.quoted:
            return self._compare(actual.casefold(), self.value.casefold())
        reads = {
            "booleans": _BOOLEANS.get(actual.casefold()),
            "numbers": _number(actual),
            "dates": _time(actual),
        }
        values = {"booleans": self.boolean, "numbers": self.number, "dates": self.time}
        for kind, ours in reads.items():
            if ours is not None:
                if (theirs := values[kind]) is None:
                    raise self._mismatch(f"{kind} as text", actual)
                both = self._times(ours, theirs) if kind == "dates" else (ours, theirs)
                return self._compare(*both)
        if self.boolean is not None:
            raise self._mismatch("text", actual)
        return not sign_orders(self.sign) and self._compare(
            actual.casefold(), self.value.casefold()
        )

    def _times(self, actual: Any, value: Any) -> tuple[datetime.datetime, datetime.datetime]:
        """Both as datetimes. A value without a time zone gets that of the column."""
        if not isinstance(actual, datetime.datetime):
            actual = datetime.datetime(actual.year, actual.month, actual.day)
        if value.tzinfo is None:
            value = value.replace(tzinfo=actual.tzinfo)
        if actual.tzinfo is None and value.tzinfo is not None:
            raise self._mismatch("dates", actual)
        return actual, value

    def _mismatch(self, kind: str, actual: Any) -> UserError:
        remedy = _REMEDIES.get(kind.removesuffix(" as text"), "choose another column")
        remedy += "; quotes around the value make it text" if kind.endswith("text") else ""
        return UserError(
            f"prompts.where: {str(self)!r} does not suit the column {self.name!r}, which holds "
            f"{kind} ({_shown(actual)}); {remedy}"
        )


def sign_orders(sign: str) -> bool:
    """Whether a sign compares by order, not by equality."""
    return sign not in ("==", "!=")


def is_missing(actual: Any) -> bool:
    """Whether a row has no value: null, NaN, or empty text."""
    if isinstance(actual, float | Decimal):
        return math.isnan(actual)
    return actual is None or (isinstance(actual, str) and actual.strip().casefold() in ("", "nan"))


def _kind(actual: Any) -> str:
    if isinstance(actual, bool):
        return "booleans"
    if isinstance(actual, int | float | Decimal):
        return "numbers"
    if isinstance(actual, datetime.date):
        return "dates"
    if isinstance(actual, str):
        return "text"
    other = f"values of type {type(actual).__name__}"
    return {list: "lists", dict: "objects"}.get(type(actual), other)


def _shown(actual: Any) -> str:
    try:
        text = ascii(actual) if isinstance(actual, str) else str(actual)
    except ValueError:  # Python prints no numbers of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _number(text: str) -> int | float | None:
    if not NUMBER.fullmatch(text):
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
