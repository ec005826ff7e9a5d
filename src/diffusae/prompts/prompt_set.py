"""Prompts with their ids, seeds and splits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from diffusae.errors import UserError, together

SPLITS: tuple[str, ...] = ("train", "validation", "dictionary", "tune", "test")
"""Uses of pictures: training the SAE, validating it, naming latents, choosing thresholds, and final
figures."""


@dataclass(frozen=True)
class Prompt:
    """A picture to generate. `image_id` is unique in the set, `seed` fixes its noise.

    `where` is the caption's place in its file, for messages only.
    """

    image_id: str
    text: str
    seed: int
    split: str
    where: str = ""


class PromptSource(Protocol):
    """A source of captions."""

    def texts(self) -> Sequence[tuple[str, str] | tuple[str, str, str]]:
        """(split, caption) or (split, caption, place in its file), by split, always in the same
        order."""
        ...


def number_prompts(
    texts: Iterable[tuple[str, str] | tuple[str, str, str]], *, first_seed: int = 0
) -> list[Prompt]:
    """Give captions ids and seeds by their place. `UserError` lists empty captions and unknown
    splits."""
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
    """Wanted pictures per split, without zeros. `UserError` for unknown splits and invalid counts.

    With `open_ended`, a count may be None: all captions of the split.
    """
    if not isinstance(counts, Mapping):
        raise UserError(
            f"prompts.counts={counts} must give one number per split, such as {{train: 100, test: "
            "20}"
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
