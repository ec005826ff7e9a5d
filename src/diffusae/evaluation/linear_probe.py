"""What a supervised linear reader finds in the raw updates: why a cell's concepts are good or bad.

A ridge regression from the update at one position to the share of each noun's mask there, fitted
with the annotator's masks of the dictionary pictures. It sees the labels that an autoencoder never
saw, so a prediction from concepts far below it loses what the updates hold, and one beside a low
probe had nothing to find. (Emergence has no such figure; Revelio trains probes on the same features
for other questions.)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from diffusae.errors import UserError
from diffusae.evaluation.composition import Split
from diffusae.evaluation.masks import choose_threshold, iou_at

RIDGES = (1e-3, 1e-2, 1e-1, 1.0)
"""Penalties that are tried on the tuning split, in mean squared standard deviations of an entry."""
_THRESHOLDS = 101


class RidgeProbe:
    """The ridge regression of targets on updates for every penalty, from one eigendecomposition.

    Args:
        updates: [n, d], one position each, any mixture of pictures.
        targets: [n, c].

    Raises:
        UserError: no positions.
    """

    def __init__(self, updates: Float[Tensor, "n d"], targets: Float[Tensor, "n c"]) -> None:
        if len(updates) == 0:
            raise UserError("a probe needs positions to fit on; collect dictionary pictures")
        x, y = updates.double(), targets.double()
        self.mean, self.offset = x.mean(dim=0), y.mean(dim=0)
        deviation = x.std(dim=0, correction=0)
        self.scale = torch.where(deviation > 0, deviation, 1.0)
        x = (x - self.mean) / self.scale
        self.values, self.vectors = torch.linalg.eigh(x.T @ x / len(x))
        self.covariance = self.vectors.T @ (x.T @ (y - self.offset) / len(x))

    def predict(self, updates: Float[Tensor, "... d"], *, ridge: float) -> Float[Tensor, "... c"]:
        """Estimated targets, float32."""
        weight = self.vectors @ (self.covariance / (self.values.clamp_min(0) + ridge)[:, None])
        weight = weight / self.scale[:, None]
        return updates.float() @ weight.float() + (self.offset - self.mean @ weight).float()


def noun_shares(split: Split, nouns: Sequence[str]) -> Float[Tensor, "n P nouns"]:
    """The share of every position that each noun's mask covers; nouns that are not listed are left
    out.
    """
    height, width = split.grid
    shares = torch.zeros(len(split.image_ids), height * width, len(nouns))
    pooled = F.adaptive_avg_pool2d(split.masks[:, None].float(), split.grid).flatten(1)
    for picture, noun, share in zip(split.picture.tolist(), split.nouns, pooled, strict=True):
        if noun in nouns:
            shares[picture, :, nouns.index(noun)] = share
    return shares


def linear_probes(
    fitting: tuple[Float[Tensor, "n P d"], Split],
    tuning: tuple[Float[Tensor, "m P d"], Split],
    test: tuple[Float[Tensor, "k P d"], Split],
) -> dict[str, Float[Tensor, " objects"]]:
    """IoU of two probes with each test object: `noun_probe` for the noun itself, `any_object_probe`
    for objects of all nouns alike (what knowing *where* without *what* is worth). Each is (updates,
    objects) of a split; ridge and threshold are those with the highest IoU on the tuning split.
    """
    nouns = sorted(set(fitting[1].nouns))
    shares = noun_shares(fitting[1], nouns)
    anything = shares.sum(dim=2, keepdim=True).clamp_max(1)
    targets = torch.cat([shares, anything], dim=2).flatten(0, 1)
    probe = RidgeProbe(fitting[0].flatten(0, 1), targets)

    def maps(updates: Tensor, split: Split, ridge: float) -> tuple[Tensor, Tensor]:
        predicted = probe.predict(updates, ridge=ridge)[split.picture]
        # A noun that the fitting pictures lack has no column of its own: it takes the one of any
        # object.
        column = torch.tensor([nouns.index(n) if n in nouns else len(nouns) for n in split.nouns])
        own = predicted[torch.arange(len(column)), :, column]
        return own.reshape(-1, *split.grid), predicted[..., -1].reshape(-1, *split.grid)

    found = {}
    for index, name in enumerate(("noun_probe", "any_object_probe")):
        chosen = []
        for ridge in RIDGES:
            scores = maps(*tuning, ridge)[index]
            thresholds = torch.linspace(float(scores.min()), float(scores.max()), _THRESHOLDS)
            chosen.append((choose_threshold(scores, tuning[1].masks, thresholds), ridge))
        threshold, ridge = max(chosen, key=lambda each: each[0].tuning_iou)
        found[name] = iou_at(maps(*test, ridge)[index], test[1].masks, threshold.value)
    return found
