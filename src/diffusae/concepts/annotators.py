"""What finds the objects in a picture. The paper's: RAM tags -> Grounding DINO boxes -> SAM masks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

BoolImage = np.ndarray[Any, np.dtype[np.bool_]]
Images = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True)
class Annotation:
    """What one picture shows. No masks means that nothing was found: no data, not a zero.

    Attributes:
        masks: noun -> bool [H, W], all instances of the noun merged.
        style: the style's name, where the annotator knows styles.
        colours: noun -> colour name, where the annotator knows colours.
    """

    masks: dict[str, BoolImage] = field(default_factory=dict)
    style: str | None = None
    colours: dict[str, str] = field(default_factory=dict)


class Annotator(Protocol):
    """Finds objects in pictures."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The nouns that it can find."""
        ...

    def annotate(self, images: Images) -> list[Annotation]:
        """One annotation for each picture of uint8 [n, H, W, 3]; masks have the pictures' size."""
        ...


def merge_instances(instances: Iterable[tuple[str, BoolImage]]) -> dict[str, BoolImage]:
    """One mask a noun: the union of its instances. Nouns of which nothing is visible are left out."""
    merged: dict[str, BoolImage] = {}
    for noun, mask in instances:
        merged[noun] = merged[noun] | mask if noun in merged else mask.astype(np.bool_)
    return {noun: mask for noun, mask in merged.items() if mask.any()}
