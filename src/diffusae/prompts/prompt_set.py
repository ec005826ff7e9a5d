"""Prompts with their ids, seeds and splits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from diffusae.errors import UserError, together

SPLITS: tuple[str, ...] = ("train", "validation", "dictionary", "tune", "test")
"""What pictures are used for: training the SAE, watching it, naming latents, choosing thresholds,
the figures."""


@dataclass(frozen=True)
class Prompt:
    """One picture to be: `image_id` is unique in the set, `seed` fixes its noise.

    `where` is the caption's place in its file, for messages; it decides nothing.
    """

    image_id: str
    text: str
    seed: int
    split: str
    where: str = ""


class PromptSource(Protocol):
    """Where captions come from."""

    def texts(self) -> Sequence[tuple[str, str] | tuple[str, str, str]]:
        """(split, caption) or (split, caption, its place in a file), split by split in an order
        that never changes."""
        ...


def number_prompts(
    texts: Iterable[tuple[str, str] | tuple[str, str, str]], *, first_seed: int = 0
) -> list[Prompt]:
    """Give each caption an id and a seed by its place; `UserError` lists every empty caption and
    unknown split."""
    prompts: list[Prompt] = []
    faults: list[str] = []
    for place, (split, text, *where) in enumerate(texts):
        if split not in SPLITS:
            faults.append(f"prompt {place}: unknown split {split!r}; known: {', '.join(SPLITS)}")
        if not text.strip():
            faults.append(f"prompt {place} is empty; give it a caption or remove it")
        prompts.append(Prompt(f"{place:06d}", text, first_seed + place, split, *where))
    if not prompts:
        faults.append("there are no prompts; raise the counts under prompts.counts")
    together(faults)
    return prompts


def check_counts(counts: Mapping[str, Any], *, open_ended: bool = False) -> dict[str, int | None]:
    """Pictures wanted a split; `UserError` for unknown splits and for counts that are not whole and
    >= 0.

    With `open_ended` a count may be None: every caption of the split.
    """
    if not isinstance(counts, Mapping):
        raise UserError(
            f"prompts.counts={counts} must give a number a split, such as {{train: 100, test: 20}}"
        )
    faults = [
        f"prompts.counts.{s}: unknown split; known: {', '.join(SPLITS)}"
        for s in counts
        if s not in SPLITS
    ]
    faults += [
        f"prompts.counts.{split}={count} must be a whole number from 0"
        + (", or null for all" if open_ended else "")
        for split, count in counts.items()
        if not (open_ended and count is None)
        and (not isinstance(count, int) or isinstance(count, bool) or count < 0)
    ]
    together(faults)
    return {split: counts[split] for split in SPLITS if counts.get(split, 0) != 0}
