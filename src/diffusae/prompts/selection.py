"""Which captions of a file a study wants: by pattern, by other columns, by length, by script, and each only once."""

from __future__ import annotations

import hashlib
import operator
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from diffusae.errors import together, unknown

SCRIPTS: Mapping[str, tuple[str, ...]] = {
    "latin": ("LATIN",),
    "cyrillic": ("CYRILLIC",),
    "greek": ("GREEK",),
    "arabic": ("ARABIC",),
    "hebrew": ("HEBREW",),
    "devanagari": ("DEVANAGARI",),
    "thai": ("THAI",),
    "hangul": ("HANGUL",),
    "chinese": ("CJK",),
    "japanese": ("CJK", "HIRAGANA", "KATAKANA"),
}
"""Script -> the words with which Unicode begins its letters' names."""

_COMPARISONS: Mapping[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "!=": operator.ne,
    "==": operator.eq,
    ">": operator.gt,
    "<": operator.lt,
}
_CONDITION = re.compile(r"\s*([^<>=!]+?)\s*(>=|<=|!=|==|>|<)\s*(.*?)\s*")


def normalised(text: str) -> str:
    """The caption as it is compared: Unicode NFC, no case, one space between words."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def script_share(text: str, script: str) -> float:
    """The share of a caption's letters that belong to a script, from 0 to 1; 1 where it has no letters.

    This tells writing systems apart, not languages: English and French are both `latin`.
    """
    letters = [letter for letter in text if letter.isalpha()]
    if not letters or (script == "latin" and text.isascii()):
        return 1.0
    known = SCRIPTS[script]
    return sum(_script_word(letter) in known for letter in letters) / len(letters)


@lru_cache(maxsize=65_536)
def _script_word(letter: str) -> str:
    name = unicodedata.name(letter, "").removeprefix("FULLWIDTH ").removeprefix("HALFWIDTH ")
    return re.split(r"[ -]", name, maxsplit=1)[0]


class Selection:
    """Says of each caption whether it is wanted, and counts why others are not. All checks are off by default.

    Args:
        match: a regular expression that must be found in the caption, whatever its case.
        exclude: one that must not.
        where: conditions on other columns, such as "aesthetic >= 6" or "nsfw == UNLIKELY": as numbers where both sides
            are numbers, else as text (== and != only). A row without the column is left out.
        dedupe: take each caption once, case and white space apart.
        min_words, max_words: bounds on the words, both included; None: no upper one.
        script: one of `SCRIPTS`; min_script_share: the share of letters that must belong to it.

    Raises:
        UserError: every setting that cannot work.
    """

    def __init__(
        self,
        *,
        match: str | None = None,
        exclude: str | None = None,
        where: Sequence[str] = (),
        dedupe: bool = False,
        min_words: int = 1,
        max_words: int | None = None,
        script: str | None = None,
        min_script_share: float = 0.9,
    ) -> None:
        faults: list[str] = []
        self._match = _pattern("match", match, faults)
        self._exclude = _pattern("exclude", exclude, faults)
        self._conditions = [found for text in where if (found := _condition(text, faults))]
        if min_words < 1 or (max_words is not None and max_words < min_words):
            faults.append(
                f"prompts.min_words={min_words} and prompts.max_words={max_words} leave no caption; "
                "choose 1 <= min_words <= max_words"
            )
        if script is not None and script not in SCRIPTS:
            faults.append(str(unknown("prompts.script:", script, SCRIPTS)))
        if not 0 < min_script_share <= 1:
            faults.append(f"prompts.min_script_share={min_script_share} must be above 0 and at most 1")
        together(faults)
        self.dedupe, self.min_words, self.max_words = dedupe, min_words, max_words
        self.script, self.min_script_share = script, min_script_share
        self._seen: set[bytes] = set()
        self.left_out: Counter[str] = Counter()
        """Reason -> captions left out."""

    @property
    def fields(self) -> tuple[str, ...]:
        """The further columns that the conditions ask for."""
        return tuple(dict.fromkeys(name for name, _, _ in self._conditions))

    def wants(self, text: str, fields: Mapping[str, Any]) -> bool:
        """Whether this caption is taken; asked again, a duplicate is not."""
        reason = self._reason(text, fields)
        if reason is not None:
            self.left_out[reason] += 1
        return reason is None

    def _reason(self, text: str, fields: Mapping[str, Any]) -> str | None:
        words = len(text.split())
        if words < self.min_words:
            return "too short"
        if self.max_words is not None and words > self.max_words:
            return "too long"
        if self._match is not None and not self._match.search(text):
            return "not matched"
        if self._exclude is not None and self._exclude.search(text):
            return "excluded"
        for name, sign, value in self._conditions:
            if not _holds(fields.get(name), sign, value):
                return f"not {name} {sign} {value}"
        if self.script is not None and script_share(text, self.script) < self.min_script_share:
            return f"not in {self.script} script"
        if self.dedupe:
            key = hashlib.blake2b(normalised(text).encode(), digest_size=16).digest()  # smaller than the text
            if key in self._seen:
                return "duplicate"
            self._seen.add(key)
        return None


def _pattern(name: str, text: str | None, faults: list[str]) -> re.Pattern[str] | None:
    try:
        return None if text is None else re.compile(text, re.IGNORECASE)
    except re.error as error:
        faults.append(f"prompts.{name}={text!r} is no regular expression ({error}); mend it")
        return None


def _condition(text: str, faults: list[str]) -> tuple[str, str, str] | None:
    found = _CONDITION.fullmatch(str(text))
    if found is None:
        faults.append(f"prompts.where: {text!r} must be COLUMN SIGN VALUE, such as 'aesthetic >= 6'")
        return None
    name, sign, value = found.groups()
    if sign not in ("==", "!=") and _number(value) is None:
        faults.append(f"prompts.where: {text!r} compares by {sign} with what is no number; use == or !=")
    return name, sign, value


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _holds(found: Any, sign: str, value: str) -> bool:
    if found is None:
        return False
    ours, theirs = _number(found), _number(value)
    if ours is not None and theirs is not None:
        return _COMPARISONS[sign](ours, theirs)
    return sign in ("==", "!=") and _COMPARISONS[sign](str(found), value)
