"""Absorption: a latent for "fish" that fails on red fish while a latent for "red fish" fires.

After "A is for Absorption" (arXiv 2409.14507). The parent's latent and each child's latent, both
with a threshold, are the best ones of `recovery`, chosen on other pictures. Over a child's rows:

    absorption = P(parent silent and child's fires) - P(parent silent | siblings) P(child's fires)

The second part is what a parent's latent gives that fails everywhere alike; siblings are the
parent's other rows. The figure is the mean over (parent, child) pairs. Range [-1, 1], lower is
better: 0 = none, 1 = the parent's latent is silent on the child alone, and the child's fires.

It differs from the published measure. The truth about every row is known, so no logistic probe
stands for it. The parent has one latent, no set of split ones. The child's latent is found by its
F1 on other pictures, neither by its effect on an answer nor by its cosine with a probe. And what
independent misses would give is taken away.

Empty cases: a parent or a child whose best latent has an F1 below a minimum is no data, since
nothing can be absorbed by or from a latent that is not there; so is a child without siblings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Unpack

import numpy as np
from numpy.typing import NDArray

from diffusae.evaluation.factors import Labels
from diffusae.evaluation.recovery import SparseCodes, best_latents, mean_over, says
from diffusae.evaluation.result import NO_DATA, Estimate, Resampling

Family = tuple[tuple[str, str], Labels]
"""A parent, by its (factor, value), with its children."""


@dataclass(frozen=True)
class Pairs:
    """Counts of every picture for every (parent, child) pair, [pictures, pairs]: rows of the child;
    of these, where its latent fires, and where it does while the parent's is silent; rows of the
    siblings, and of these where the parent's latent is silent.
    """

    names: tuple[tuple[str, str], ...]
    child: NDArray[np.float64]
    fires: NDArray[np.float64]
    instead: NDArray[np.float64]
    siblings: NDArray[np.float64]
    missed: NDArray[np.float64]

    def absorption(self, weights: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """Of every pair, [pairs], or of every resample, [resamples, pairs]; NaN without rows."""
        weights = np.ones((1, len(self.child))) if weights is None else weights
        child, siblings = weights @ self.child, weights @ self.siblings
        known = (child > 0) & (siblings > 0)
        child, siblings = np.where(known, child, np.nan), np.where(known, siblings, np.nan)
        missed = (weights @ self.missed) / siblings
        excess = (weights @ self.instead) / child - missed * (weights @ self.fires) / child
        return excess if len(weights) > 1 else excess[0]


def absorption(
    choosing: tuple[SparseCodes, Labels, Sequence[Family]],
    test: tuple[SparseCodes, Labels, Sequence[Family]],
    *,
    minimum_f1: float,
    minimum_pictures: int,
) -> Pairs:
    """All pairs of which parent and child have latents, and enough pictures in both splits.

    Args:
        choosing, test: codes of all rows, their labels, and the hierarchy of the same columns.
        minimum_f1: of the best latents of parent and child, on the choosing pictures.
    """
    codes, labels, families = choosing
    tested, test_labels, test_families = test
    parents = best_latents(codes, labels.flat)
    said = says(tested, parents).reshape(test_labels.holds.shape)
    names: list[tuple[str, str]] = []
    counts: list[tuple[NDArray[np.float64], ...]] = []
    for (parent, young), (_, test_young) in zip(families, test_families, strict=True):
        column = labels.columns.index(parent)
        enough = np.minimum(young.pictures, test_young.pictures) >= minimum_pictures
        if parents.f1[column] < minimum_f1 or not enough.any():
            continue
        others = _without(codes, int(parents.latents[column]))
        best = best_latents(others, young.flat)
        fires = says(tested, best).reshape(test_young.holds.shape)
        silent, holds = ~said[:, :, column], test_labels.holds[:, :, column]
        for i in np.flatnonzero(enough & (best.f1 >= minimum_f1)):
            child, own = test_young.holds[:, :, i], fires[:, :, i]
            siblings = holds & ~child
            if not siblings.any():
                continue
            names.append((parent[1], young.columns[i][1]))
            which = (child, child & own, child & own & silent, siblings, siblings & silent)
            counts.append(tuple(one.sum(axis=1, dtype=np.float64) for one in which))
    empty = np.zeros((len(test_labels.holds), 0))
    stacked = [np.stack(one, axis=1) for one in zip(*counts, strict=True)] or [empty] * 5
    return Pairs(tuple(names), *stacked)


def mean_absorption(pairs: Pairs, **resampling: Unpack[Resampling]) -> Estimate:
    """The mean over pairs with an interval over pictures; n counts pictures; no pair: no data."""
    if not pairs.names:
        return NO_DATA
    n = len(pairs.child)
    return mean_over(pairs.absorption, range(len(pairs.names)), n=n, least=-1.0, **resampling)


def _without(codes: SparseCodes, latent: int) -> SparseCodes:
    """The codes with one latent silent."""
    kept = codes.copy()
    kept.data[kept.indptr[latent] : kept.indptr[latent + 1]] = 0
    kept.eliminate_zeros()
    return kept
