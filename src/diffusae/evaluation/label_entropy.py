"""Purity of latents: the entropy of the labels of their top pictures (after Revelio, section 4).

Revelio (arXiv 2411.16725) takes the standard deviation of the class numbers of a latent's top
pictures, which depends on the order of the classes. The entropy of the classes does not. A picture
with several labels gives each of them an equal part of one vote. With the shares p_l of the votes:
H = -sum_l p_l log2 p_l, in bits; range [0, log2(labels)]; lower = purer, 0 = one label only.

Empty cases: pictures without a label do not vote; a latent without votes has NaN.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from diffusae.errors import UserError
from diffusae.evaluation.result import NO_DATA, Estimate, percentile_interval

Votes = Mapping[str, Sequence[str]]
"""Image id -> its labels; none where nothing was found in the picture."""


def entropy_bits(shares: Float[np.ndarray, "... labels"]) -> NDArray[np.float64]:
    """Entropy of votes of any sum, [...]; NaN without votes."""
    shares = np.asarray(shares, dtype=np.float64)
    total = shares.sum(axis=-1, keepdims=True)
    p = np.divide(shares, total, out=np.zeros_like(shares), where=total > 0)
    entropy = -(p * np.log2(p, out=np.zeros_like(p), where=p > 0)).sum(axis=-1)
    return np.where(total[..., 0] > 0, entropy + 0.0, np.nan)  # + 0.0: no -0.0


class LabelVotes:
    """The votes of pictures as a matrix, for the entropy of any choice of pictures."""

    def __init__(self, votes: Votes) -> None:
        if not votes:
            raise UserError("there are no pictures to vote; annotate held-out pictures first")
        self.labels = sorted({label for labels in votes.values() for label in labels})
        self._row = {image_id: row for row, image_id in enumerate(votes)}
        self._matrix = np.zeros((len(votes), len(self.labels)))
        for row, labels in enumerate(votes.values()):
            for label in labels:
                self._matrix[row, self.labels.index(label)] += 1 / len(labels)

    def entropies(self, top: Sequence[Sequence[str]]) -> NDArray[np.float64]:
        """The entropy of each latent's top pictures, [latents]."""
        choices = [[self._row[image_id] for image_id in of_latent] for of_latent in top]
        return np.array([entropy_bits(self._matrix[rows].sum(axis=0)) for rows in choices])

    def of_random_pictures(self, sizes: Sequence[int], *, n_draws: int, seed: int) -> Estimate:
        """The mean entropy of as many random pictures for each latent.

        Mean and 95 % range over the draws; n counts latents.
        """
        if not sizes or not self.labels:
            return NO_DATA
        generator, size_of = np.random.default_rng(seed), np.asarray(sizes)
        latents_of = {size: size_of == size for size in np.unique(size_of)}
        pictures = np.tile(np.arange(len(self._matrix)), (len(sizes), 1))
        shares, means = np.empty((len(sizes), len(self.labels))), []
        for _ in range(n_draws):
            drawn = generator.permuted(pictures, axis=1)
            for size, latents in latents_of.items():
                shares[latents] = self._matrix[drawn[latents, :size]].sum(axis=1)
            means.append(np.nanmean(entropy_bits(shares)))
        return Estimate(float(np.mean(means)), percentile_interval(np.array(means)), len(sizes))
