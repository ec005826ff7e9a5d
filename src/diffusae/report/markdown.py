"""Text that came from elsewhere, in Markdown: it is shown as it is and is never markup."""

from __future__ import annotations

import re
from typing import Any

from markupsafe import Markup, escape

MOST = 2000
"""Characters of one value: a card is read by people."""

_MARKS = re.compile(r"([\\`*\[\]|~$#!])")


def as_text(value: Any) -> Markup:
    """A value on one line, in which HTML and Markdown mean nothing; lists and objects as their
    items.
    """
    if isinstance(value, Markup):
        return value
    line = "".join(
        letter if letter.isprintable() else " " for letter in " ".join(str(_flat(value)).split())
    )
    if len(line) > MOST:
        line = line[:MOST] + " ..."
    return Markup(
        _MARKS.sub(r"\\\1", str(escape(line)).replace("&#39;", "'").replace("&#34;", '"'))
    )


def _flat(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return ", ".join(str(_flat(entry)) for entry in value)
    if isinstance(value, dict):
        return ", ".join(f"{name} {_flat(entry)}" for name, entry in value.items())
    return value
