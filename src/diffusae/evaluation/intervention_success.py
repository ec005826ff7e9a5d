"""Did an edit do what it was for? Pure functions of pictures and of what an annotator found in
them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from torchmetrics.functional.image import structural_similarity_index_measure

from diffusae.errors import UserError

Mask = Bool[np.ndarray, "height width"]
Picture = UInt8[np.ndarray, "height width 3"]


@dataclass(frozen=True)
class Moved:
    """What became of an object that was to be in a region.

    Attributes:
        found: whether the annotator finds it after the edit.
        success: whether its centre of mass then lies in the region; an object that is not found is
            none.
        rest: root mean square change of the pixels that neither show the object before nor after;
            range [0, 1] of full scale, lower = more is left alone.
    """

    found: bool
    success: bool
    rest: float


def centre_of_mass(mask: Mask) -> tuple[float, float]:
    """(row, column) of a mask's centre in pixels; `UserError` for an empty mask, which has none."""
    rows, columns = np.nonzero(mask)
    if len(rows) == 0:
        raise UserError(
            "an empty mask has no centre; an object that was not found has no mask at all"
        )
    return float(rows.mean()), float(columns.mean())


def in_region(mask: Mask, region: Mask) -> bool:
    """Whether the mask's centre of mass lies in the region (Emergence, section 6.1; a quadrant's
    chance is 0.25).
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
    """What became of a picture whose style was to change.

    Attributes:
        rose: whether the target's score is higher than without the edit (the paper's success).
        reached: whether the target is now the picture's most likely style.
        score_before, score_after: the target's score without and with the edit; with CLIP, cosines.
        gain: the second less the first.
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


def restyled(
    target: int,
    *,
    before: tuple[Picture, Sequence[float], Sequence[str]],
    after: tuple[Picture, Sequence[float], Sequence[str]],
) -> Restyled:
    """Judge one picture; `before` and `after` are pictures, scores of all styles, and the nouns
    found.
    """
    (old, old_scores, old_nouns), (new, new_scores, new_nouns) = before, after
    with_edit, without = (
        torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255 for image in (new, old)
    )
    similarity = structural_similarity_index_measure(with_edit, without, data_range=1.0)
    assert isinstance(similarity, torch.Tensor)
    return Restyled(
        rose=new_scores[target] > old_scores[target],
        score_before=float(old_scores[target]),
        score_after=float(new_scores[target]),
        gain=float(new_scores[target]) - float(old_scores[target]),
        reached=int(np.argmax(new_scores)) == target,
        similarity=float(similarity),
        kept=set(old_nouns) <= set(new_nouns),
    )


class FeatureDistance:
    """How far apart pictures are to a network, in mean distances of two different pictures: 0 = the
    same, 1 = another.

    Args:
        features: uint8 pictures [n, height, width, 3] to features [n, d], such as an annotator's.
        pictures: what to scale by, such as the unedited pictures; at least two.
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
        """Pair by pair, of uint8 [n, height, width, 3]."""
        a, b = (self._features(pictures).double() for pictures in (first, second))
        return ((a - b).norm(dim=1) / (self.mean_pair or 1.0)).tolist()
