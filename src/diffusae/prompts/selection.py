"""Selecting captions by pattern, other columns, length and script, and removing duplicates."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from diffusae.errors import UserError, together, unknown
from diffusae.prompts.conditions import Condition, is_missing

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
"""Script -> the first words of its letters' names in Unicode."""


def normalised(text: str) -> str:
    """The caption for comparisons: Unicode NFC, without case, one space between words."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def script_share(text: str, script: str) -> float:
    """The share (0 to 1) of a caption's letters that belong to a script; 1 without letters.

    Scripts are writing systems, not languages: English and French are both `latin`.
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
    """Selects captions, and counts the reasons for leaving others out. By default all are taken.

    Args:
        match: a regular expression that the caption must contain, in any case.
        exclude: a regular expression that the caption must not contain.
        where: conditions on other columns (`Condition`), such as "aesthetic >= 6" or
            "nsfw == UNLIKELY". Rows without a value (null, NaN, empty) are left out.
        dedupe: leave out captions that differ from an earlier one only in case and white space.
        min_words, max_words: limits of the number of words, inclusive. None: no upper limit.
        script: one of `SCRIPTS`. min_script_share: the least share of letters in that script.

    Raises:
        UserError: lists all invalid settings.
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
        self._conditions = _conditions(where, faults)
        if not isinstance(dedupe, bool):
            faults.append(f"prompts.dedupe={dedupe} must be true or false")
        bounds = (min_words, min_words if max_words is None else max_words)
        if not all(type(bound) is int for bound in bounds) or not 1 <= bounds[0] <= bounds[1]:
            faults.append(
                f"prompts.min_words={min_words} and prompts.max_words={max_words} leave no "
                "caption; choose whole numbers with 1 <= min_words <= max_words"
            )
        if script is not None and script not in SCRIPTS:
            faults.append(str(unknown("prompts.script:", script, SCRIPTS)))
        if type(min_script_share) not in (int, float) or not 0 < min_script_share <= 1:
            share = f"prompts.min_script_share={min_script_share}"
            faults.append(f"{share} must be above 0 and at most 1")
        together(faults)
        self.dedupe, self.min_words, self.max_words = dedupe, min_words, max_words
        self.script, self.min_script_share = script, min_script_share
        self._seen: set[bytes] = set()
        self.left_out: Counter[str] = Counter()
        """Reason -> captions left out."""
        self.never_seen: set[str] = set(self.fields)
        """Columns of the conditions that no row has had so far."""

    @property
    def fields(self) -> tuple[str, ...]:
        """The columns of the conditions."""
        return tuple(dict.fromkeys(condition.name for condition in self._conditions))

    def wants(self, text: str, fields: Mapping[str, Any]) -> bool:
        """Whether this caption is taken. With `dedupe`, it is taken only the first time.

        Raises:
            UserError: a condition cannot be compared with the row's value.
        """
        self.never_seen -= fields.keys()
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
        for condition in self._conditions:
            if is_missing(value := fields.get(condition.name)):
                return f"without {condition.name}"
            if not condition.holds(value):
                return f"failing {condition}"
        if self.script is not None and script_share(text, self.script) < self.min_script_share:
            return f"not in {self.script} script"
        if self.dedupe:
            key = hashlib.blake2b(normalised(text).encode(), digest_size=16).digest()
            if key in self._seen:
                return "duplicate"
            self._seen.add(key)
        return None


def _pattern(name: str, text: str | None, faults: list[str]) -> re.Pattern[str] | None:
    try:
        return None if text is None else re.compile(text, re.IGNORECASE)
    except (re.error, TypeError, OverflowError, RecursionError) as error:
        faults.append(f"prompts.{name}={text!r} is no regular expression ({error}); mend it")
        return None


def _conditions(where: object, faults: list[str]) -> list[Condition]:
    conditions: list[Condition] = []
    if isinstance(where, str) or not isinstance(where, Sequence):
        faults.append(
            f"prompts.where={where!r} must be a list of conditions, such as ['aesthetic >= 6']"
        )
        return conditions
    for text in where:
        try:
            conditions.append(Condition(text))
        except UserError as error:
            faults.append(str(error))
    return conditions
