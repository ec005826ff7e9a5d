"""The one error type that is shown to a user without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

USER_FAULT = 2
"""The exit code for a mistake that the user can mend."""


class UserError(ValueError):
    """A mistake that the user can mend. The message states the rule, the value found and the
    remedy; `faults` holds the single mistakes where it lists several.
    """

    def __init__(self, message: object = "", faults: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.faults = tuple(faults) or (str(message),)


def unknown(kind: str, name: object, known: Iterable[object]) -> UserError:
    """The error for a name that does not exist; it lists those that do and points at the
    nearest.
    """
    names = sorted(str(k) for k in known)
    close = difflib.get_close_matches(str(name), names, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return UserError(f"unknown {kind} {str(name)!r}; known: {', '.join(names) or '(none)'}.{hint}")


def refuse_text(name: str, value: object) -> None:
    """`UserError` where one text stands in the place of several: Python would take it for a list of
    its letters.
    """
    if isinstance(value, str):
        raise UserError(
            f"{name}={value!r} is one text where a list of texts is needed; give [{value!r}]"
        )


def together(faults: Iterable[str], *, most: int | None = None) -> None:
    """Raise one `UserError` that lists every fault, or the first `most` and how many more; do
    nothing when there is none.
    """
    found = list(faults)
    if len(found) == 1:
        raise UserError(found[0])
    if found:
        told = found[:most]
        rest = [f"and {len(found) - len(told)} more"] if len(told) < len(found) else []
        raise UserError(
            f"{len(found)} faults:\n" + "\n".join(f"  - {each}" for each in [*told, *rest]), found
        )
