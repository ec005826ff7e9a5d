"""Checks of captions: invisible text, text for a missing value, and values that are no text."""

from __future__ import annotations

import re
import unicodedata

MOST_CHARACTERS = 65_536
"""Limit of a caption. Text encoders read below a hundredth of this."""

_MISSING = ("nan", "none", "null", "<na>")
"""Texts that programs write for a missing value."""
_NO_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]")
"""Control characters (but tab and line ends), line separators, halves of surrogate pairs and
non-characters."""
_UNSEEN_LETTERS = "\u115f\u1160\u2800\u3164\uffa0"
"""Fillers and the empty Braille cell: invisible letters and symbols."""
NUMBER = re.compile(
    r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?|[+-]?inf(inity)?", re.IGNORECASE
)


def caption_fault(text: str) -> str:
    """The fault of a caption that is not empty, with the remedy; "" if it is good."""
    if len(text) > MOST_CHARACTERS:
        most = f"{len(text)} characters, more than {MOST_CHARACTERS}"
        return f"a caption of {most}; shorten it, or set prompts.column"
    if not text.isprintable():
        if match := _NO_TEXT.search(text):
            return f"{_named(match[0])} in the caption; remove the character"
        if not any(map(_is_seen, text)):
            first = _named(text.strip()[:1] or text[0])
            return f"only characters that do not show ({first}); remove it"
    elif not text.isascii() and not any(map(_is_seen, text)):
        return f"only characters that do not show alone ({_named(text.strip()[:1])}); remove it"
    if len(text) < 20 and text.strip().casefold() in _MISSING:
        return f"{text.strip()!r} stands for a missing caption; remove it"
    return ""


def untyped_fault(text: str) -> str:
    """`caption_fault` for formats without types, in which text may be a number or a list."""
    text = text.strip()
    if text[:1] not in "+-.0123456789iI[":
        return ""
    if NUMBER.fullmatch(text):
        return f"the number {text[:40]}, not a caption; set prompts.column, or mend it"
    if re.fullmatch(r"\[\s*(['\"]).*\1\s*,?\s*\]", text, re.DOTALL):
        return "a list, not a caption; set prompts.column, or write one caption a row"
    return ""


def _is_seen(character: str) -> bool:
    """Whether a character is visible alone: not a mark, a blank or a format character.

    Characters that Unicode's tables here do not know, or that are private, count as visible.
    """
    kind = unicodedata.category(character)
    return kind in ("Cn", "Co") or (kind[0] not in "MZC" and character not in _UNSEEN_LETTERS)


def _named(character: str) -> str:
    if "\ud800" <= character <= "\udfff":
        return f"U+{ord(character):04X}, half of a surrogate pair,"
    return f"U+{ord(character):04X} {unicodedata.name(character, 'CONTROL CHARACTER')}"
