"""Overrides that Hydra's grammar refuses, or reads as something else than text: the same, quoted so
that it works.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

TEXTS = ("prompt", "concept", "word", "with_text.concept", "collection.prompt")
"""Settings that hold free text."""


def quoted(override: str) -> str:
    """The override with its value as a quoted string of Hydra's, and that quoted for a shell."""
    key, _, value = override.partition("=")
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        value = value[1:-1]  # the user's own quotes, in which something is not escaped
    return for_shell(text_override(key, value))


def text_override(key: str, text: str) -> str:
    """The override that sets a setting to this very text."""
    from hydra.core.override_parser.types import Quote, QuotedString

    # A backslash before `${`, and twice those that stand before it, or it would name another
    # setting.
    text = re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + "\\${", text)
    return f"{key}={QuotedString(text=text, quote=Quote.single).with_quotes()}"


def for_shell(word: str) -> str:
    """In double quotes where nothing in them means something to a shell: that reads better than
    quotes of single quotes.
    """
    return shlex.quote(word) if re.search(r'["\\$`!]', word) else f'"{word}"'


def unreadable(overrides: Sequence[str], index: int) -> str:
    """What is said of an override that Hydra's grammar refuses."""
    override = overrides[index]
    key, equals, _ = override.partition("=")
    if equals and re.fullmatch(r"[+~]{0,2}[\w$][\w$.@:/-]*", key):
        return (
            f"{override!r} holds characters that must be quoted; so it works:\n  {quoted(override)}"
        )
    before = index
    while before >= 0 and "=" not in overrides[before]:
        before -= 1
    end = index
    while end + 1 < len(overrides) and "=" not in overrides[end + 1]:
        end += 1
    if not equals and before >= 0:
        whole = " ".join(overrides[before : end + 1])
        return (
            f"{override!r} is no override (setting=value); a text with spaces must be quoted:\n "
            f" {quoted(whole)}"
        )
    return f"{override!r} is no override; write setting=value"


def swept(override: str) -> str:
    """What is said of a sweep where one job was asked for."""
    key, _, value = override.partition("=")
    return (
        f"{override!r} reads as several values. As text:\n  {quoted(override)}\n"
        f"as a list:\n  {shlex.quote(f'{key}=[{value}]')}\nto run one job for each value, add -m"
    )


def no_text(override: str, value: object) -> str:
    """What is said of a text that reads as a number, a list, or (None) as the name of another
    setting.
    """
    kind = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        list: "a list",
        dict: "a mapping",
    }
    key, read = override.partition("=")[0], kind.get(type(value), "the name of another setting")
    return f"{override!r} reads as {read}, and {key} is a text; so it works:\n  {quoted(override)}"
