"""Faithfulness: the damage when a reconstruction replaces the update.

Explained variance weighs every direction of an update alike, but the model does not. Therefore the
reconstruction replaces the update, as SAEs of language models are judged by the loss they recover
(Gao et al., arXiv 2406.04093, section 4). With the denoising errors L of the unedited model, L'
with the reconstruction and L0 with the mean update (sums over pictures):

- denoising_error_change = L' / L - 1; range [-1, inf), lower is better, 0 = no change;
- loss_recovered = 1 - (L' - L) / (L0 - L); range (-inf, inf), higher is better, 1 = as good as the
  update, 0 = no better than its mean;
- picture_mse, picture_ssim: of the pictures with pixels in [0, 1] against the unedited ones; ranges
  [0, 1] (lower is better) and [-1, 1] (higher is better);
- content_kept: intersection over union of the nouns that the annotator finds before and after;
  range [0, 1], higher is better;
- content_distance: total variation distance between the distributions of nouns over all pictures
  before and after, 1/2 sum |p - q|; range [0, 1], lower is better. It is never below 0, and chance
  alone makes it positive for few pictures: `halves`, the distance between random halves of the
  unedited pictures, shows by how much.

Empty cases: loss_recovered is no data where the mean update does no harm (L0 <= L). A picture
without nouns before and after is no data for content_kept. Without any noun in all pictures,
content_distance is no data.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Unpack

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from diffusae.errors import UserError
from diffusae.evaluation.result import (
    NO_DATA,
    Estimate,
    Resampling,
    bootstrap_mean,
    bootstrap_weights,
    percentile_interval,
)
from diffusae.evaluation.structural_similarity import structural_similarity

Pictures = UInt8[np.ndarray, "n height width 3"]
Nouns = Sequence[Collection[str]]


def denoising_error_change(
    edited: Float[Tensor, " n"], own: Float[Tensor, " n"], **resampling: Unpack[Resampling]
) -> Estimate:
    """L' / L - 1 with an interval over pictures."""
    return _ratio(edited - own, own, **resampling)


def loss_recovered(
    edited: Float[Tensor, " n"],
    own: Float[Tensor, " n"],
    ablated: Float[Tensor, " n"],
    **resampling: Unpack[Resampling],
) -> Estimate:
    """1 - (L' - L) / (L0 - L) with an interval over pictures."""
    return _ratio(ablated - edited, ablated - own, **resampling)


def picture_mse(edited: Pictures, own: Pictures) -> Float[Tensor, " n"]:
    """The mean squared difference of each picture's pixels in [0, 1]."""
    _same(edited, own)
    return (_unit(edited) - _unit(own)).square().flatten(1).mean(dim=1)


def picture_ssim(edited: Pictures, own: Pictures) -> Float[Tensor, " n"]:
    """The structural similarity of each picture."""
    _same(edited, own)
    return structural_similarity(edited, own, dtype=torch.float64)


def content_kept(edited: Nouns, own: Nouns) -> list[float]:
    """The IoU of each picture's nouns before and after; pictures without nouns are left out."""
    pairs = [(set(after), set(before)) for after, before in zip(edited, own, strict=True)]
    return [len(after & before) / len(after | before) for after, before in pairs if after | before]


def content_distance(edited: Nouns, own: Nouns, **resampling: Unpack[Resampling]) -> Estimate:
    """The total variation distance of the nouns' distributions; n counts pictures.

    The interval resamples pictures, before and after together. Scatter increases a distance, so the
    interval is widened where it would not hold the value.
    """
    after, before = _presence(edited, own)
    value = _total_variation(after.sum(axis=0), before.sum(axis=0))
    if not np.isfinite(value):
        return NO_DATA
    if len(own) == 1:
        return Estimate(float(value), None, 1)
    weights = bootstrap_weights(len(own), **resampling)
    spread = _total_variation(weights @ after, weights @ before)
    low, high = percentile_interval(spread[np.isfinite(spread)])
    return Estimate(float(value), (min(low, float(value)), max(high, float(value))), len(own))


def distance_of_halves(own: Nouns, *, n_halves: int = 200, seed: int = 0) -> Estimate:
    """The distance between two random halves: mean and 95 % range over `n_halves` divisions."""
    if len(own) < 2:
        return NO_DATA
    (presence,) = _presence(own)
    generator, half = np.random.default_rng(seed), len(own) // 2
    distances = []
    for _ in range(n_halves):
        order = generator.permutation(len(own))
        one, other = order[:half], order[half : 2 * half]
        distances.append(_total_variation(presence[one].sum(axis=0), presence[other].sum(axis=0)))
    known = np.array(distances)[np.isfinite(distances)]
    if not len(known):
        return NO_DATA
    return Estimate(float(known.mean()), percentile_interval(known), len(own))


def over_pictures(values: Tensor | Sequence[float], **resampling: Unpack[Resampling]) -> Estimate:
    """The mean over pictures."""
    return bootstrap_mean(np.asarray(values, dtype=np.float64), **resampling)


def _ratio(above: Tensor, below: Tensor, **resampling: Unpack[Resampling]) -> Estimate:
    """sum(above) / sum(below), bootstrapped over pictures; no data where sum(below) <= 0."""
    sums = np.stack([above.double().numpy(), below.double().numpy()], axis=1)
    if len(sums) == 0 or sums[:, 1].sum() <= 0:
        return NO_DATA
    value = float(sums[:, 0].sum() / sums[:, 1].sum())
    if len(sums) == 1:
        return Estimate(value, None, 1)
    resampled = bootstrap_weights(len(sums), **resampling) @ sums
    resampled = resampled[resampled[:, 1] > 0]
    return Estimate(value, percentile_interval(resampled[:, 0] / resampled[:, 1]), len(sums))


def _presence(*several: Nouns) -> list[NDArray[np.float64]]:
    names = sorted({noun for nouns in several for of_picture in nouns for noun in of_picture})

    def table(nouns: Nouns) -> NDArray[np.float64]:
        rows = [[noun in of_picture for noun in names] for of_picture in nouns]
        return np.array(rows, dtype=np.float64).reshape(len(nouns), len(names))

    return [table(nouns) for nouns in several]


def _total_variation(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    def shares(counts: NDArray[np.float64]) -> NDArray[np.float64]:
        total = counts.sum(axis=-1, keepdims=True)
        return np.divide(counts, total, out=np.full_like(counts, np.nan), where=total > 0)

    if one.shape[-1] == 0:
        return np.full(one.shape[:-1], np.nan)
    return np.abs(shares(one) - shares(other)).sum(axis=-1) / 2


def _unit(pictures: Pictures) -> Float[Tensor, "n 3 height width"]:
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).double() / 255


def _same(edited: Pictures, own: Pictures) -> None:
    if edited.shape != own.shape:
        raise UserError(
            f"pictures {list(edited.shape)} and {list(own.shape)} differ; compare the same ones"
        )
