"""Whether an edit reached its aim: pure functions of pictures and their annotations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, UInt8

from diffusae.errors import UserError

Mask = Bool[np.ndarray, "height width"]
Picture = UInt8[np.ndarray, "height width 3"]


@dataclass(frozen=True)
class Moved:
    """The result of moving an object into a region.

    Attributes:
        found: whether the annotator finds the object after the edit.
        success: whether its centre of mass then lies in the region; False where it is not found.
        rest: root mean square change of the pixels that show the object neither before nor after;
            range [0, 1] of full scale, lower = less is changed.
    """

    found: bool
    success: bool
    rest: float


def centre_of_mass(mask: Mask) -> tuple[float, float]:
    """(row, column) of a mask's centre in pixels; `UserError` for an empty mask."""
    rows, columns = np.nonzero(mask)
    if len(rows) == 0:
        raise UserError(
            "an empty mask has no centre; an object that was not found has no mask at all"
        )
    return float(rows.mean()), float(columns.mean())


def in_region(mask: Mask, region: Mask) -> bool:
    """Whether the mask's centre of mass lies in the region (Emergence, section 6.1).

    By chance this is true for a quadrant in 0.25 of all cases.
    """
    row, column = centre_of_mass(mask)
    return bool(region[round(row), round(column)])


def moved(
    noun: str,
    region: Mask,
    *,
    before: tuple[Picture, Mapping[str, Mask]],
    after: tuple[Picture, Mapping[str, Mask]],
) -> Moved:
    """Judge one picture; `before` and `after` are the pictures and their masks by noun."""
    (old, old_masks), (new, new_masks) = before, after
    mask = new_masks.get(noun)
    either = np.zeros(region.shape, bool)
    for masks in (old_masks, new_masks):
        if noun in masks:
            either |= masks[noun]
    change = (new.astype(np.float64) - old.astype(np.float64))[~either] / 255
    rest = float(np.sqrt(np.square(change).mean())) if change.size else 0.0
    return Moved(mask is not None, mask is not None and in_region(mask, region), rest)


@dataclass(frozen=True)
class Restyled:
    """The result of changing a picture's style.

    Attributes:
        rose: whether the target's score is higher than without the edit (the paper's success).
        reached: whether the target is now the picture's most likely style.
        score_before, score_after: the target's score without and with the edit; with CLIP, cosines.
        gain: score_after - score_before.
        similarity: structural similarity to the picture without the edit, range [-1, 1]; 1 =
            unchanged.
        kept: whether every object found before is still found.
    """

    rose: bool
    reached: bool
    score_before: float
    score_after: float
    gain: float
    similarity: float
    kept: bool

    @property
    def success(self) -> bool:
        """The paper's success."""
        return self.rose


def restyled(
    target: int,
    *,
    before: tuple[Sequence[float], Sequence[str]],
    after: tuple[Sequence[float], Sequence[str]],
    similarity: float,
) -> Restyled:
    """Judge one picture; `before` and `after`: scores of all styles, nouns found."""
    (old_scores, old_nouns), (new_scores, new_nouns) = before, after
    return Restyled(
        rose=new_scores[target] > old_scores[target],
        score_before=float(old_scores[target]),
        score_after=float(new_scores[target]),
        gain=float(new_scores[target]) - float(old_scores[target]),
        reached=int(np.argmax(new_scores)) == target,
        similarity=similarity,
        kept=set(old_nouns) <= set(new_nouns),
    )


class FeatureDistance:
    """How different pictures are to a network: 0 = the same, 1 = as two unrelated pictures.

    The unit is the mean distance of two different pictures.

    Args:
        features: uint8 pictures [n, height, width, 3] -> features [n, d], such as an annotator's.
        pictures: the pictures that give the unit, such as the unedited ones; at least two.
    """

    def __init__(
        self, features: Callable[[np.ndarray], torch.Tensor], pictures: Sequence[Picture]
    ) -> None:
        if len(pictures) < 2:
            raise UserError(
                "distances are scaled by pairs of unedited pictures; evaluate two pictures or more"
            )
        self._features = features
        self.mean_pair = float(
            torch.nn.functional.pdist(features(np.stack(pictures)).double()).mean()
        )

    def __call__(self, first: np.ndarray, second: np.ndarray) -> list[float]:
        """The distance of each pair; both arguments are uint8 [n, height, width, 3]."""
        a, b = (self._features(pictures).double() for pictures in (first, second))
        return ((a - b).norm(dim=1) / (self.mean_pair or 1.0)).tolist()
