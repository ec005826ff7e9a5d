"""What cannot be a caption: text that nobody sees, that stands for a missing value, or that is no
text."""

from __future__ import annotations

import re
import unicodedata

MOST_CHARACTERS = 65_536
"""Of a caption: no text encoder reads a hundredth of them."""

_MISSING = ("nan", "none", "null", "<na>")
"""What programs write for a value that is not there."""
_NO_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]")
"""Control characters but tab and line ends, separators of lines, halves of surrogate pairs, and
what is no character."""
_UNSEEN_LETTERS = "\u115f\u1160\u2800\u3164\uffa0"
"""Fillers and the empty Braille cell: letters and symbols to Unicode that show nothing."""
_NUMBER = re.compile(
    r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?|[+-]?inf(inity)?", re.IGNORECASE
)


def caption_fault(text: str) -> str:
    """What is wrong with a caption that is not empty, with the remedy; "" where nothing is."""
    if len(text) > MOST_CHARACTERS:
        return (
            f"a caption of {len(text)} characters, more than {MOST_CHARACTERS}; shorten it, or set"
            " prompts.column"
        )
    if not text.isprintable():
        if found := _NO_TEXT.search(text):
            return f"{_named(found[0])} in the caption; remove the character"
        if not any(map(_is_seen, text)):
            return (
                f"nothing but characters that do not show ({_named(text.strip()[:1] or text[0])});"
                " remove it"
            )
    elif not text.isascii() and not any(map(_is_seen, text)):
        return (
            f"nothing but characters that do not show alone ({_named(text.strip()[:1])}); remove it"
        )
    if len(text) < 20 and text.strip().casefold() in _MISSING:
        return f"{text.strip()!r} stands for a missing caption; remove it"
    return ""


def untyped_fault(text: str) -> str:
    """The same for what only a format without types can hide in text: numbers and lists."""
    text = text.strip()
    if text[:1] not in "+-.0123456789iI[":
        return ""
    if _NUMBER.fullmatch(text):
        return f"the number {text[:40]}, not a caption; set prompts.column, or mend it"
    if re.fullmatch(r"\[\s*(['\"]).*\1\s*,?\s*\]", text, re.DOTALL):
        return "a list, not a caption; set prompts.column, or write one caption a row"
    return ""


def _is_seen(character: str) -> bool:
    """Letters, numbers, punctuation, symbols; not marks, which need a letter to stand on, blanks or
    format characters.

    What this Python's tables do not know, or a private font draws, counts as seen.
    """
    kind = unicodedata.category(character)
    return kind in ("Cn", "Co") or (kind[0] not in "MZC" and character not in _UNSEEN_LETTERS)


def _named(character: str) -> str:
    if "\ud800" <= character <= "\udfff":
        return f"U+{ord(character):04X}, half of a surrogate pair,"
    return f"U+{ord(character):04X} {unicodedata.name(character, 'CONTROL CHARACTER')}"
