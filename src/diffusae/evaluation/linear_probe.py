"""A supervised linear reader of the raw updates: an upper reference for a cell's concepts.

A ridge regression from the update at one position to the share of each noun's mask there, fitted
with the annotator's masks of the dictionary pictures. It sees the labels, which an autoencoder
never does. A prediction from concepts far below the probe loses information of the updates; beside
a low probe, there was nothing to find. (Emergence has no such figure; Revelio trains probes on the
same features for other questions.)
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
"""Penalties to try on the tuning split, in mean squared standard deviations of an entry."""
_THRESHOLDS = 101


class RidgeProbe:
    """The ridge regression of targets on updates for every penalty, from one eigendecomposition.

    Args:
        updates: [n, d], one position a row, any mixture of pictures.
        targets: [n, c]. The work is done on their device.

    Raises:
        UserError: no positions.
    """

    def __init__(self, updates: Float[Tensor, "n d"], targets: Float[Tensor, "n c"]) -> None:
        if len(updates) == 0:
            raise UserError("a probe needs positions to fit on; collect dictionary pictures")
        x, y = updates.to(targets.device).double(), targets.double()
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
        x = updates.to(weight.device).float()
        return x @ weight.float() + (self.offset - self.mean @ weight).float()


def noun_shares(split: Split, nouns: Sequence[str]) -> Float[Tensor, "n P nouns"]:
    """The share of every position that each noun's mask covers; other nouns are left out."""
    height, width = split.grid
    shares = split.masks.new_zeros(
        len(split.image_ids), height * width, len(nouns), dtype=torch.float32
    )
    pooled = F.adaptive_avg_pool2d(split.masks[:, None].float(), split.grid).flatten(1)
    kept = [row for row, noun in enumerate(split.nouns) if noun in nouns]
    columns = [nouns.index(split.nouns[row]) for row in kept]
    rows, nouns_of = torch.tensor([kept, columns], dtype=torch.long, device=shares.device)
    shares[split.picture[rows], :, nouns_of] = pooled[rows]
    return shares


def linear_probes(
    fitting: tuple[Float[Tensor, "n P d"], Split],
    tuning: tuple[Float[Tensor, "m P d"], Split],
    test: tuple[Float[Tensor, "k P d"], Split],
) -> dict[str, Float[Tensor, " objects"]]:
    """The IoU with each test object of two probes, named `noun_probe` and `any_object_probe`.

    `noun_probe` predicts the noun itself, `any_object_probe` objects of any noun: the value of
    knowing *where* without *what*. Ridge and threshold have the highest IoU on the tuning split.

    Args:
        fitting, tuning, test: (updates, objects) of a split.
    """
    nouns = sorted(set(fitting[1].nouns))
    shares = noun_shares(fitting[1], nouns)
    anything = shares.sum(dim=2, keepdim=True).clamp_max(1)
    targets = torch.cat([shares, anything], dim=2).flatten(0, 1)
    probe = RidgeProbe(fitting[0].flatten(0, 1), targets)

    def maps(updates: Tensor, split: Split) -> dict[float, Float[Tensor, "2 objects h w"]]:
        """By ridge: of the object's own noun, and of any object."""
        updates = updates.to(targets.device)
        # A noun without fitting pictures has no column: it takes the last, of any object.
        columns = [nouns.index(n) if n in nouns else len(nouns) for n in split.nouns]
        own = torch.tensor(columns, dtype=torch.long, device=targets.device)
        made = {}
        for ridge in RIDGES:
            predicted = probe.predict(updates, ridge=ridge)
            both = (predicted[split.picture, :, own], predicted[split.picture, :, -1])
            made[ridge] = torch.stack(both).unflatten(-1, split.grid)
        return made

    tuned, tested = maps(*tuning), maps(*test)
    iou = {}
    for index, name in enumerate(("noun_probe", "any_object_probe")):
        chosen = []
        for ridge in RIDGES:
            scores = tuned[ridge][index]
            thresholds = torch.linspace(float(scores.min()), float(scores.max()), _THRESHOLDS)
            chosen.append((choose_threshold(scores, tuning[1].masks, thresholds), ridge))
        threshold, ridge = max(chosen, key=lambda choice: choice[0].tuning_iou)
        iou[name] = iou_at(tested[ridge][index], test[1].masks, threshold.value)
    return iou
