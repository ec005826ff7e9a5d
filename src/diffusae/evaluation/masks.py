"""Score maps cut into masks, and their IoU with an annotator's masks.

A score map gives each place a score for showing the noun. The predicted mask is where score >=
threshold, after bilinear interpolation to the mask's size. IoU has the range [0, 1], higher is
better. Empty cases: an annotated mask is never empty (a noun that was not found is no data); an
empty predicted mask has IoU 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from diffusae.errors import UserError

FLAT = 1e-4
"""The span of a map, as a share of the largest score, up to which it is flat. A cosine in float32
is wrong by some 1e-6, and by 5e-5 at most (768 products, each rounded by 6e-8). The thresholds of
composition lie .01 apart, a hundred times as far as this.
"""
_OBJECTS_AT_ONCE = 512


@dataclass(frozen=True)
class Threshold:
    """A threshold chosen on the tuning split, its mean IoU there, and the whole curve."""

    value: float
    tuning_iou: float
    thresholds: list[float]
    curve: list[float]


def upsample(scores: Float[Tensor, "m h w"], size: tuple[int, int]) -> Float[Tensor, "m H W"]:
    """Bilinear interpolation (align_corners=False); maps of the right size are returned as such."""
    if tuple(scores.shape[1:]) == size:
        return scores
    return F.interpolate(scores[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


def flat(scores: Float[Tensor, "m h w"], *, of: float | None = None) -> Bool[Tensor, " m"]:
    """Which maps show nothing: their scores span no more than `FLAT` of the largest score.

    Args:
        of: the largest score that there can be, such as 1 for cosines, whose rounding does not
            become smaller with them; None: the map's own largest magnitude.
    """
    lowest, highest = scores.amin(dim=(1, 2)), scores.amax(dim=(1, 2))
    size = scores.abs().amax(dim=(1, 2)) if of is None else torch.full_like(highest, of)
    return highest - lowest <= FLAT * size


def relative(scores: Float[Tensor, "m h w"], *, of: float | None = None) -> Float[Tensor, "m h w"]:
    """Every map scaled to [0, 1] by its own minimum and maximum; a `flat` map becomes zeros.

    Without a tolerance, a map whose concepts all say the same would be stretched too, and show
    nothing but how sums were rounded.
    """
    lowest, highest = scores.amin(dim=(1, 2), keepdim=True), scores.amax(dim=(1, 2), keepdim=True)
    is_flat = flat(scores, of=of)[:, None, None]
    return torch.where(
        is_flat, 0.0, (scores - lowest) / torch.where(is_flat, 1.0, highest - lowest)
    )


def mask_iou(first: Bool[Tensor, "m H W"], second: Bool[Tensor, "m H W"]) -> Float[Tensor, " m"]:
    """IoU of each pair; two empty masks have 0."""
    intersection = (first & second).sum(dim=(1, 2)).double()
    union = (first | second).sum(dim=(1, 2)).double()
    return intersection / union.clamp_min(1)


def iou_at(
    scores: Float[Tensor, "m h w"], masks: Bool[Tensor, "m H W"], threshold: float
) -> Float[Tensor, " m"]:
    """IoU of each object's mask with its score map cut at one threshold, on the CPU."""
    parts = [
        mask_iou(upsample(score, _size(mask)) >= threshold, mask)
        for score, mask in _in_parts(scores, masks)
    ]
    return torch.cat(parts).cpu() if parts else torch.zeros(0, dtype=torch.float64)


def rows_of(tensor: Float[Tensor, "n ..."], rows: Sequence[int]) -> Float[Tensor, "m ..."]:
    """Some rows of a tensor of any device, by their places."""
    return tensor[torch.tensor(rows, dtype=torch.long, device=tensor.device)]


def iou_of_pairs(
    masks: Bool[Tensor, "m H W"], pairs: Sequence[tuple[int, int]]
) -> Float[Tensor, " pairs"]:
    """IoU of pairs of the masks, by their places, on the CPU."""
    places = torch.tensor(pairs, dtype=torch.long, device=masks.device).reshape(-1, 2)
    parts = [mask_iou(*masks[part.T]) for part in places.split(_OBJECTS_AT_ONCE)]
    return torch.cat(parts).cpu()


def iou_curve(
    scores: Float[Tensor, "m h w"], masks: Bool[Tensor, "m H W"], thresholds: Float[Tensor, " t"]
) -> Float[Tensor, " t"]:
    """Mean IoU at each of the ascending thresholds, by histograms instead of t cuts; on the CPU.

    Example: thresholds 0.2 and 0.6, scores 0.1, 0.4, 0.9 and a mask of the last two pixels. The
    bins are 0, 1, 2 (a pixel in bin j passes the first j thresholds). Pixels at or above the
    thresholds: 2 and 1, of these in the mask: 2 and 1. IoU: 2 / 2 and 1 / 2.
    """
    t = len(thresholds)
    thresholds = thresholds.to(scores)
    total = torch.zeros(t, dtype=torch.float64, device=scores.device)
    for score, mask in _in_parts(scores, masks):
        large = upsample(score, _size(mask)).contiguous()
        bins = torch.bucketize(large, thresholds, right=True)
        # One histogram of t + 1 bins for each object: object i counts in cells from i (t + 1) on.
        first = (t + 1) * torch.arange(len(score), device=bins.device)
        cells = (bins.flatten(1) + first[:, None]).flatten()
        inside = mask.flatten().double()
        shape = (len(score), t + 1)
        counts = torch.bincount(cells, minlength=shape[0] * shape[1]).double().reshape(shape)
        hits = torch.bincount(cells, weights=inside, minlength=shape[0] * shape[1]).reshape(shape)
        predicted, intersection = _at_least(counts), _at_least(hits)
        union = predicted + mask.flatten(1).sum(dim=1, keepdim=True) - intersection
        total += (intersection / union.clamp_min(1)).sum(dim=0)
    return (total / len(scores)).cpu()


def choose_threshold(
    scores: Float[Tensor, "m h w"], masks: Bool[Tensor, "m H W"], thresholds: Float[Tensor, " t"]
) -> Threshold:
    """The threshold with the highest mean IoU, the lowest if equal. For the tuning split only.

    Raises:
        UserError: no objects to choose from.
    """
    if len(scores) == 0:
        raise UserError(
            "there is no annotated object to choose a threshold on; enlarge the tuning split"
        )
    curve = iou_curve(scores, masks, thresholds)
    best = int(curve.argmax())
    chosen, iou = float(thresholds[best]), float(curve[best])
    return Threshold(chosen, iou, thresholds.tolist(), curve.tolist())


def _in_parts(scores: Tensor, masks: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Scores and masks, some objects at a time."""
    parts = (scores.split(_OBJECTS_AT_ONCE), masks.split(_OBJECTS_AT_ONCE))
    return zip(*parts, strict=True)


def _at_least(histogram: Float[Tensor, "m bins"]) -> Float[Tensor, "m t"]:
    # Pixels in the bins above j, for every threshold j.
    return histogram.flip(1).cumsum(dim=1).flip(1)[:, 1:]


def _size(masks: Tensor) -> tuple[int, int]:
    return masks.shape[1], masks.shape[2]
