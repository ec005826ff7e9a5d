"""Vocabularies: labels with their plurals and synonyms, and labels of several words.

Tags of a tagger, phrases of a detector, nouns of a caption and entries of a dictionary all become
labels of one `Vocabulary`. The rules (*open* in the paper, section 4):

1. Words are compared in lower case. Hyphens, underscores and punctuation separate words. A
   possessive "'s" is dropped.
2. A label of several words ("traffic light") is one label. In a text, the longest label at a place
   wins, and its words count for no other label: with "hot dog" in the vocabulary, "a hot dog" names
   no dog. Without "hot dog" it names a dog, so a vocabulary should hold such compounds.
3. The plural of a label, or of one of its synonyms, means the label. The head of a phrase is its
   last word, or the word before a preposition ("glasses of wine"). A word that is itself a label is
   never read as another label's plural.
4. A synonym means its label. Synonyms come from the vocabulary alone; none is guessed.
5. A tag is one label or none. An article or a number before it is dropped. With other words before
   it, it is another thing ("toy car" is no car unless the vocabulary says so).
6. For embeddings, a label that has no vector as a whole stands for its words (`words_of`).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

from diffusae.errors import UserError, together

_IRREGULAR = {
    "person": ("people", "persons"),
    "man": ("men",),
    "woman": ("women",),
    "child": ("children",),
    "foot": ("feet",),
    "tooth": ("teeth",),
    "goose": ("geese",),
    "mouse": ("mice",),
    "ox": ("oxen",),
    "die": ("dice",),
    "cactus": ("cacti", "cactuses"),
    "octopus": ("octopuses", "octopi"),
    "quiz": ("quizzes",),
    "fish": ("fish", "fishes"),
    **{
        same: (same,)
        for same in ("sheep", "deer", "moose", "bison", "salmon", "aircraft", "spacecraft")
    },
}
_MEN = re.compile(r"(?<!hu)(?<!ger)(?<!ro)(?<!sha)(?<!talis)(?<!otto)man$")
_PREPOSITIONS = frozenset({"of", "in", "with", "on", "for"})
_COUNTS = {"two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"}
BEFORE = {"a", "an", "the", "some", "several", "many"} | _COUNTS
"""Words that may stand before a tag without changing its meaning."""


def words_of(label: str) -> list[str]:
    """The single words of a label, separated by blanks, hyphens or underscores."""
    return [word for word in re.split(r"[\s_-]+", label) if word]


@cache
def plurals(phrase: str) -> tuple[str, ...]:
    """The plural forms of an English noun phrase; several where usage or spelling differs.

    The forms are searched for in texts, so that a wrong extra form ("rooves") does no harm.
    """
    words = phrase.split()
    places = (i - 1 for i, word in enumerate(words) if i and word in _PREPOSITIONS)
    head = next(places, len(words) - 1)
    forms = _plurals(words[head])
    return tuple(" ".join([*words[:head], form, *words[head + 1 :]]) for form in forms)


def _plurals(word: str) -> tuple[str, ...]:
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if len(word) > 3 and _MEN.search(word):
        return (word[:-3] + "men",)
    if re.search(r"(s|x|z|ch|sh)$", word):
        return (word + "es",)
    if re.search(r"[^aeiou]y$", word):
        return (word[:-1] + "ies",)
    if word.endswith("o"):
        return word + "s", word + "es"
    if word.endswith("f") and not word.endswith("ff"):
        return word + "s", word[:-1] + "ves"
    if word.endswith("fe"):
        return word + "s", word[:-2] + "ves"
    return (word + "s",)


def normal_words(text: str) -> list[str]:
    """The words of a text as they are compared (rule 1)."""
    text = unicodedata.normalize("NFKC", text).casefold().replace("’", "'")
    return re.findall(r"[^\W_]+", re.sub(r"'s\b", "", text))


class Vocabulary(tuple[str, ...]):
    """The labels, in their order, and their other names.

    It is the tuple of its labels, so that it can be passed wherever labels are asked for.

    Args:
        labels: in the order of all answers; each is kept as it is written.
        synonyms: label -> its other names.

    Raises:
        UserError: no label, a label without words, a name that means two labels (all together).
    """

    _meant: dict[tuple[str, ...], str]
    _longest: int

    def __new__(
        cls, labels: Iterable[str], synonyms: Mapping[str, Sequence[str]] | None = None
    ) -> Vocabulary:
        self = super().__new__(cls, labels)
        names: dict[tuple[str, ...], str] = {}
        faults = [] if self else ["a vocabulary needs labels; give some"]
        for label, name in [(label, label) for label in self] + [
            (label, name) for label, others in (synonyms or {}).items() for name in others
        ]:
            words = tuple(normal_words(name))
            if label not in self:
                faults.append(
                    f"{name!r} is a synonym of {label!r}, which is no label; add the label"
                )
            elif not words:
                faults.append(f"the label {name!r} has no words; give it a name")
            elif words in names:
                faults.append(f"{name!r} means both {names[words]!r} and {label!r}; drop one")
            else:
                names[words] = label
        together(faults)
        self._meant = dict(names)
        for words, label in names.items():
            for plural in plurals(" ".join(words)):
                self._meant.setdefault(tuple(plural.split()), label)
        self._longest = max(len(words) for words in self._meant)
        return self

    @classmethod
    def of(cls, labels: Iterable[str]) -> Vocabulary:
        """`labels` itself where it is a vocabulary, else a vocabulary without synonyms."""
        return labels if isinstance(labels, Vocabulary) else cls(labels)

    @classmethod
    def read(cls, path: Path | str) -> Vocabulary:
        """Read a text file: on each line "label: synonym, synonym"; "#" begins a comment.

        Raises:
            UserError: the file is missing or no UTF-8 text, or as above.
        """
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"{path} is no readable vocabulary ({error}); give a text file with a label a line"
            ) from error
        entries = [line.split("#")[0].partition(":") for line in lines]
        named = [(label.strip(), others) for label, _, others in entries if label.strip()]
        return cls(
            [label for label, _ in named],
            {label: [o.strip() for o in others.split(",") if o.strip()] for label, others in named},
        )

    def names(self) -> list[tuple[str, str]]:
        """(form, label) of every form that means a label; sorted."""
        return sorted((" ".join(words), label) for words, label in self._meant.items())

    def label_of(self, tag: str) -> str | None:
        """The label that a tag means as a whole (rule 5); None: it means none."""
        words = normal_words(tag)
        while words:
            if (label := self._meant.get(tuple(words))) is not None:
                return label
            if words[0] not in BEFORE and not words[0].isdigit():
                return None
            words = words[1:]
        return None

    def labels_of(self, tags: Iterable[str]) -> list[str]:
        """The distinct labels that tags mean, in the vocabulary's order."""
        named = {self.label_of(tag) for tag in tags}
        return [label for label in self if label in named]

    def labels_in(self, text: str) -> list[str]:
        """The distinct labels that a text names, in the vocabulary's order (rule 2)."""
        named = self.named_in(text)
        return [label for label in self if label in named]

    def named_in(self, text: str) -> dict[str, set[str]]:
        """Each label that a text names -> its words in the text, as `normal_words` gives them."""
        named: dict[str, set[str]] = {}
        for label, words in self.appearances(text):
            named.setdefault(label, set()).update(words)
        return named

    def appearances(self, text: str) -> list[tuple[str, list[str]]]:
        """The labels that a text names and their words in it, in its order, repetitions included.

        Example: "a red star with a yellow star" gives "star" twice.
        """
        words, place = normal_words(text), 0
        found: list[tuple[str, list[str]]] = []
        while place < len(words):
            # The longest name that begins here wins; the search goes on behind it.
            for length in range(min(self._longest, len(words) - place), 0, -1):
                name = words[place : place + length]
                if (label := self._meant.get(tuple(name))) is not None:
                    found.append((label, name))
                    place += length
                    break
            else:
                place += 1
        return found
