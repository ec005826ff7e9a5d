"""The interface of annotators. The paper's: RAM tags -> Grounding DINO boxes -> SAM masks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

BoolImage = np.ndarray[Any, np.dtype[np.bool_]]
Images = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True)
class Annotation:
    """What one picture shows. No masks: the annotator found nothing, which is no data, not a 0.

    Attributes:
        masks: noun -> bool [H, W], all instances of the noun merged; never an empty mask.
        colours: noun -> colour name, where the annotator knows colours.
        factors: properties of the whole picture, such as its style: factor -> the best value.
        scores: factor -> the scores of all its values, in the order of the annotator's `factors`.
    """

    masks: dict[str, BoolImage] = field(default_factory=dict)
    colours: dict[str, str] = field(default_factory=dict)
    factors: dict[str, str] = field(default_factory=dict)
    scores: dict[str, list[float]] = field(default_factory=dict)

    @property
    def style(self) -> str | None:
        """The style's name, where the annotator knows styles."""
        return self.factors.get("style")


class Annotator(Protocol):
    """Finds objects in pictures; may also name the style of a whole picture."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The nouns that it can find; a `concepts.words.Vocabulary` where they have synonyms."""
        ...

    @property
    def factors(self) -> Mapping[str, Sequence[str]]:
        """Factor, such as style, -> its values in the order of the scores; empty: no factors."""
        ...

    def annotate(self, images: Images, /, captions: Sequence[str] | None = None) -> Sequence[Any]:
        """One annotation for each picture of uint8 [n, H, W, 3]; masks have the pictures' size.

        `captions`, one a picture, serve annotators that look for the nouns of the caption.
        """
        ...


def merge_instances(instances: Iterable[tuple[str, BoolImage]]) -> dict[str, BoolImage]:
    """One mask a noun: the union of its instances. Nouns without a visible pixel are left out."""
    merged: dict[str, BoolImage] = {}
    for noun, mask in instances:
        merged[noun] = merged[noun] | mask if noun in merged else mask.astype(np.bool_)
    return {noun: mask for noun, mask in merged.items() if mask.any()}
