"""Cohesion and separability of concepts (Emergence, arXiv 2504.15473, appendix on concept metrics).

The items of a concept are the objects that its latent gained, each as often as it was gained. With
the unit embeddings e_i of a concept's items and their mean m_c:

- cohesion: the mean over concepts of mean_i cos(e_i, m_c). Range [-1, 1]; higher = purer.
- separability: the mean over pairs of different concepts of cos(m_c, m_d). Range [-1, 1]; lower =
  more different concepts.

Both depend on the embedding: sentence models have a high floor. Figures of different embeddings are
not comparable.

Empty cases: no concept with enough items, or too few labels of objects, is no data; a single
concept has no separability. A mean of length 0 (items that cancel out) has cosine 0 with
everything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from diffusae.errors import UserError
from diffusae.evaluation.result import (
    NO_DATA,
    Estimate,
    Resampling,
    Result,
    bootstrap_mean,
    bootstrap_weights,
    percentile_interval,
)

VERSION = 1


@dataclass(frozen=True)
class Items:
    """The items of a cell's concepts, as counts.

    Attributes:
        counts: how often each concept gained each label.
        embeddings: the labels' unit vectors.

    Raises:
        UserError: shapes that do not fit, negative counts.
    """

    counts: Int[Tensor, "concepts labels"]
    embeddings: Float[Tensor, "labels d"]

    def __post_init__(self) -> None:
        if self.counts.ndim != 2 or self.counts.shape[1] != len(self.embeddings):
            raise UserError(
                f"counts {list(self.counts.shape)} need one embedding for each label, got"
                f" {len(self.embeddings)}; embed every label"
            )
        if (self.counts < 0).any():
            raise UserError("a count of items is negative; count from 0")

    def with_at_least(self, minimum: int) -> Items:
        """The concepts of `minimum` items or more; `UserError` for a minimum below 1."""
        if minimum < 1:
            raise UserError(
                f"minimum_items={minimum} must be at least 1; raise evaluation.minimum_items"
            )
        return Items(self.counts[self.counts.sum(dim=1) >= minimum], self.embeddings)


def centres(items: Items) -> Float[Tensor, "concepts d"]:
    """The direction of each concept's mean item: unit vectors, or 0 where the items cancel out."""
    return F.normalize(items.counts.double() @ items.embeddings.double(), dim=1)


def cohesion(items: Items) -> Float[Tensor, " concepts"]:
    """The mean cosine of each concept's items with their mean; every concept needs an item."""
    counts = items.counts.double()
    cosines = F.normalize(items.embeddings.double(), dim=1) @ centres(items).T
    return (counts * cosines.T).sum(dim=1) / counts.sum(dim=1)


def separability(items: Items, weights: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """The mean cosine of different concepts' centres, [resamples]; NaN without a pair.

    Args:
        weights: how often each concept counts in each resample, [resamples, concepts]; default: one
            resample that counts every concept once. A concept drawn twice is no pair with itself.
    """
    unit = centres(items).numpy()
    weights = np.ones((1, len(unit))) if weights is None else weights
    own = (np.square(weights) * np.square(unit).sum(axis=1)).sum(axis=1)
    pairs = np.square(weights.sum(axis=1)) - np.square(weights).sum(axis=1)
    together = np.square(weights @ unit).sum(axis=1) - own
    return np.divide(together, pairs, out=np.full(len(weights), np.nan), where=pairs > 0)


def shuffled(items: Items, generator: torch.Generator) -> Items:
    """The same concepts, their items drawn without replacement from all items of the cell."""
    n_labels = items.counts.shape[1]
    sizes = items.counts.sum(dim=1)
    labels = torch.arange(n_labels).repeat_interleave(items.counts.sum(dim=0))
    labels = labels[torch.randperm(len(labels), generator=generator)]
    concepts = torch.arange(len(sizes)).repeat_interleave(sizes)
    counts = torch.zeros_like(items.counts).flatten()
    counts.index_add_(0, concepts * n_labels + labels, torch.ones_like(labels))
    return Items(counts.reshape(items.counts.shape), items.embeddings)


def random_pair(embeddings: Float[Tensor, "labels d"]) -> Estimate:
    """The embedding's floor: the mean cosine of two different labels; n counts labels, from 2."""
    n = len(embeddings)
    if n < 2:
        return NO_DATA
    one_each = Items(torch.eye(n, dtype=torch.long), embeddings)
    return Estimate(float(separability(one_each)[0]), None, n)


def cohesion_results(
    items: Items,
    *,
    vocabulary: Float[Tensor, "words d"],
    embedding: str,
    cell: Mapping[str, Any],
    minimum_items: int = 2,
    objects: Bool[Tensor, " labels"] | None = None,
    minimum_object_labels: int = 0,
    n_shuffles: int = 200,
    **resampling: Unpack[Resampling],
) -> list[Result]:
    """The two rows of a cell, with intervals over concepts.

    No data where all concepts together gained fewer than `minimum_object_labels` labels of objects:
    concepts that say "background" throughout are alike and tell nothing. `objects` says which
    labels count (None: all). `details` has both counts.

    Baselines: `random_labels`, the same after all labels were shuffled over the latents (mean and
    95 % range over the shuffles); `random_pair`, the mean cosine of two different words of the
    `vocabulary`.

    Raises:
        UserError: `minimum_items` or `n_shuffles` below 1.
    """
    if n_shuffles < 1:
        raise UserError(f"n_shuffles={n_shuffles} must be at least 1; raise evaluation.n_shuffles")
    kept = items.with_at_least(minimum_items)
    gained = items.counts.sum(dim=0)
    n_object_labels = int(gained.sum() if objects is None else gained[objects].sum())
    if n_object_labels < minimum_object_labels:
        kept = Items(kept.counts[:0], kept.embeddings)
    n = len(kept.counts)
    floor = random_pair(vocabulary)
    generator = torch.Generator().manual_seed(resampling.get("seed", 0))
    # Shuffle over all latents first: those with few items give items, but are not counted.
    shuffles = [
        shuffled(items, generator).with_at_least(minimum_items)
        for _ in range(n_shuffles if n else 0)
    ]
    spread = {
        "cohesion": np.array([float(cohesion(one).mean()) for one in shuffles]),
        "separability": np.array([separability(one)[0] for one in shuffles]),
    }
    own = {
        "cohesion": bootstrap_mean(cohesion(kept).numpy(), **resampling),
        "separability": _separability(kept, **resampling),
    }
    details = {
        "embedding": embedding,
        "n_concepts_left_out": len(items.counts) - n,
        "minimum_items": minimum_items,
        "n_concepts_of_one_label": int(((kept.counts > 0).sum(dim=1) == 1).sum()),
        "n_items": int(kept.counts.sum()),
        "n_object_labels": n_object_labels,
        "n_other_labels": int(gained.sum()) - n_object_labels,
        "minimum_object_labels": minimum_object_labels,
    }
    return [
        Result(
            metric=metric,
            estimate=estimate,
            higher_is_better=metric == "cohesion",
            unit="cosine",
            cell=dict(cell),
            baselines={"random_labels": _over_shuffles(spread[metric], n), "random_pair": floor},
            details=details,
            version=VERSION,
        )
        for metric, estimate in own.items()
    ]


def _separability(items: Items, **resampling: Unpack[Resampling]) -> Estimate:
    n = len(items.counts)
    if n < 2:
        return NO_DATA
    resampled = separability(items, bootstrap_weights(n, **resampling))
    interval = percentile_interval(resampled[np.isfinite(resampled)])
    return Estimate(float(separability(items)[0]), interval, n).drawn(resampled)


def _over_shuffles(values: NDArray[np.float64], n: int) -> Estimate:
    if not np.isfinite(values).all() or len(values) == 0:
        return NO_DATA
    return Estimate(float(values.mean()), percentile_interval(values), n)
