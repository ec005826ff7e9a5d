"""Baselines of composition prediction: the mean IoU on the same test objects.

A threshold or a radius is chosen on the tuning split, as for the prediction itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Unpack

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from diffusae.evaluation.composition import Split
from diffusae.evaluation.masks import (
    choose_threshold,
    iou_at,
    iou_of_pairs,
    mask_iou,
    relative,
    rows_of,
)
from diffusae.evaluation.result import Estimate, Resampling, bootstrap_mean

_THRESHOLDS = torch.linspace(0, 1, 101)


def mean_of_known(
    iou: Float[Tensor, " objects"], groups: Sequence[str], **resampling: Unpack[Resampling]
) -> Estimate:
    """The mean over the objects that have data; NaN: none."""
    known = iou.isfinite()
    kept = [group for group, has_data in zip(groups, known.tolist(), strict=True) if has_data]
    return bootstrap_mean(iou[known].numpy(), groups=kept, **resampling)


def chance(split: Split, *, per_object: int = 20, **resampling: Unpack[Resampling]) -> Estimate:
    """The mean of `chance_iou`."""
    iou = chance_iou(split, per_object=per_object, seed=resampling.get("seed", 0))
    return mean_of_known(iou, split.groups, **resampling)


def chance_iou(split: Split, *, per_object: int = 20, seed: int = 0) -> Float[Tensor, " objects"]:
    """Mean IoU of each mask with masks of the same noun in other pictures: the value of the noun.

    Every object is compared with up to `per_object` others, drawn without replacement. An object
    whose noun is in no other picture is no data (NaN).
    """
    generator = np.random.default_rng(seed)
    nouns, pictures = np.array(split.nouns), split.picture.cpu().numpy()
    pairs, counts, kept = list[tuple[int, int]](), list[int](), list[int]()
    for index in range(len(nouns)):
        others = np.flatnonzero((nouns == nouns[index]) & (pictures != pictures[index]))
        if len(others) == 0:
            continue
        drawn = generator.permutation(others)[:per_object].tolist()
        pairs += [(other, index) for other in drawn]
        counts.append(len(drawn))
        kept.append(index)
    means = [float(iou.mean()) for iou in iou_of_pairs(split.masks, pairs).split(counts)]
    return _at(kept, torch.tensor(means, dtype=torch.float64), len(nouns))


def _at(kept: Sequence[int], values: Tensor, n: int) -> Float[Tensor, " objects"]:
    """The values at their objects, and NaN at the others."""
    everywhere = torch.full((n,), math.nan, dtype=torch.float64)
    everywhere[list(kept)] = values.double().cpu()
    return everywhere


def centre_prior(tuning: Split, test: Split, **resampling: Unpack[Resampling]) -> Estimate:
    """The mean of `centre_prior_iou`."""
    return bootstrap_mean(centre_prior_iou(tuning, test).numpy(), groups=test.groups, **resampling)


def centre_prior_iou(tuning: Split, test: Split) -> Float[Tensor, " objects"]:
    """The noun's mean mask over the tuning split, cut at the best threshold.

    It is the best guess without looking at the picture. A noun that the tuning split lacks gets the
    mean of all its masks.
    """
    overall = tuning.masks.float().mean(dim=0)
    by_noun = {
        noun: rows_of(tuning.masks, [n for n, other in enumerate(tuning.nouns) if other == noun])
        .float()
        .mean(dim=0)
        for noun in set(tuning.nouns)
    }

    def guesses(nouns: Sequence[str]) -> Tensor:
        maps = [by_noun.get(noun, overall) for noun in nouns]
        return torch.stack(maps) if maps else overall[None][:0]

    return score_map_iou(guesses(tuning.nouns), guesses(test.nouns), tuning=tuning, test=test)


def centre_disc(tuning: Split, test: Split, **resampling: Unpack[Resampling]) -> Estimate:
    """A disc in the middle, the same for all objects; its radius is tuned on the tuning split."""
    height, width = test.masks.shape[1:]
    y, x = torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)[None]
    closeness = relative(-(y.square() + x.square()).sqrt()[None]).to(test.masks.device)
    return score_map_baseline(
        closeness.expand(len(tuning.nouns), -1, -1),
        closeness.expand(len(test.nouns), -1, -1),
        tuning=tuning,
        test=test,
        **resampling,
    )


def score_map_baseline(
    tuning_scores: Float[Tensor, "a h w"],
    test_scores: Float[Tensor, "b h w"],
    *,
    tuning: Split,
    test: Split,
    **resampling: Unpack[Resampling],
) -> Estimate:
    """The mean of `score_map_iou`."""
    iou = score_map_iou(tuning_scores, test_scores, tuning=tuning, test=test)
    return bootstrap_mean(iou.numpy(), groups=test.groups, **resampling)


def score_map_iou(
    tuning_scores: Float[Tensor, "a h w"],
    test_scores: Float[Tensor, "b h w"],
    *,
    tuning: Split,
    test: Split,
    per_map: bool = False,
) -> Float[Tensor, " b"]:
    """IoU of each test object with any score maps, such as cross-attention maps.

    Both splits need one map for each object. The threshold is chosen on the tuning split, out of
    101 shares of the range of scores: the range of all tuning maps, or with `per_map` of each map.
    """
    if per_map:
        tuning_scores, test_scores = relative(tuning_scores), relative(test_scores)
        thresholds = _THRESHOLDS
    else:
        lowest, highest = 0.0, 1.0
        if tuning_scores.numel():
            lowest, highest = (edge.cpu() for edge in tuning_scores.aminmax())
        thresholds = lowest + _THRESHOLDS * (highest - lowest)
    threshold = choose_threshold(tuning_scores, tuning.masks, thresholds)
    return iou_at(test_scores, test.masks, threshold.value)


def other_picture(
    test_scores: Float[Tensor, "m h w"],
    test: Split,
    *,
    threshold: float,
    **resampling: Unpack[Resampling],
) -> Estimate:
    """The mean of `other_picture_iou`."""
    iou = other_picture_iou(test_scores, test, threshold=threshold, seed=resampling.get("seed", 0))
    return mean_of_known(iou, test.groups, **resampling)


def other_picture_iou(
    test_scores: Float[Tensor, "m h w"], test: Split, *, threshold: float, seed: int = 0
) -> Float[Tensor, " objects"]:
    """The prediction for the same noun in another picture, drawn at random.

    An object whose noun is in no other picture is no data (NaN).
    """
    generator = np.random.default_rng(seed)
    nouns, pictures = np.array(test.nouns), test.picture.cpu().numpy()
    kept, partners = [], []
    for index in range(len(nouns)):
        others = np.flatnonzero((nouns == nouns[index]) & (pictures != pictures[index]))
        if len(others) > 0:
            kept.append(index)
            partners.append(int(generator.choice(others)))
    iou = iou_at(rows_of(test_scores, partners), rows_of(test.masks, kept), threshold)
    return _at(kept, iou, len(nouns))


def annotator_ceiling(
    split: Split,
    second_masks: Sequence[Bool[Tensor, "H W"] | None],
    **resampling: Unpack[Resampling],
) -> Estimate:
    """IoU of the mask with a second annotation (or the truth) of the object; None: no data."""
    kept = [index for index, mask in enumerate(second_masks) if mask is not None]
    second = [torch.as_tensor(mask, dtype=torch.bool) for mask in second_masks if mask is not None]
    iou = torch.zeros(0)
    if kept:
        iou = mask_iou(rows_of(split.masks, kept), torch.stack(second).to(split.masks.device)).cpu()
    groups = split.groups
    kept_groups = [groups[index] for index in kept]
    return bootstrap_mean(iou.numpy(), groups=kept_groups, **resampling)
