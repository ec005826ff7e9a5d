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
    """The error for an unknown name. It lists the known names and points at the nearest."""
    names = sorted(str(k) for k in known)
    close = difflib.get_close_matches(str(name), names, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return UserError(f"unknown {kind} {str(name)!r}; known: {', '.join(names) or '(none)'}.{hint}")


def refuse_text(name: str, value: object) -> None:
    """`UserError` if a list of texts is one text: Python would take it for a list of letters."""
    if isinstance(value, str):
        raise UserError(
            f"{name}={value!r} is one text, but a list of texts is needed; give [{value!r}]"
        )


def together(faults: Iterable[str], *, most: int | None = None) -> None:
    """Raise one `UserError` that lists all faults, or the first `most` and the number of the rest.
    Without faults, do nothing."""
    listed = list(faults)
    if len(listed) == 1:
        raise UserError(listed[0])
    if listed:
        shown = listed[:most]
        rest = [f"and {len(listed) - len(shown)} more"] if len(shown) < len(listed) else []
        raise UserError(
            f"{len(listed)} faults:\n" + "\n".join(f"  - {fault}" for fault in [*shown, *rest]),
            listed,
        )
