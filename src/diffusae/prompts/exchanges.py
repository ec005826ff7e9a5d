"""Captions that differ in one word: pairs for the question when a model decides something."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from diffusae.prompts.prompt_set import Prompt


@dataclass(frozen=True)
class CaptionPair:
    """A prompt whose caption names the value `old`, and the same caption with `new` in its place.

    Values are names such as an annotator gives; the captions hold their words.
    """

    prompt: Prompt
    old: str
    new: str
    caption: str


def caption_pairs(prompts: Sequence[Prompt], words: Mapping[str, str]) -> list[CaptionPair]:
    """A pair of every prompt that names exactly one of the values, once.

    The new values take turns, so that all are used equally often. Example with {"cat": "cat",
    "dog": "dog"}: "a red cat" gives ("a red cat", "a red dog"), and "a cat and a dog" nothing.

    Args:
        words: {value: its words in a caption}. Case is ignored, whole words count alone, and of
            two words that begin at one place the longer one counts.
    """
    values = {word.lower(): value for value, word in words.items()}
    pairs: list[CaptionPair] = []
    for prompt in prompts:
        found = named(prompt.text, list(values))
        if len(found) != 1:
            continue
        ((start, word),) = found
        old = values[word]
        others = [value for value in words if value != old]
        new = others[len(pairs) % len(others)]
        caption = prompt.text[:start] + words[new] + prompt.text[start + len(word) :]
        pairs.append(CaptionPair(prompt, old, new, caption))
    return pairs


def named(caption: str, words: Sequence[str]) -> list[tuple[int, str]]:
    """(place, word) of every appearance of these words, in lower case."""
    longest_first = "|".join(map(re.escape, sorted(words, key=len, reverse=True)))
    found = re.finditer(rf"(?<!\w)(?:{longest_first})(?!\w)", caption.lower())
    return [(match.start(), match.group()) for match in found]
