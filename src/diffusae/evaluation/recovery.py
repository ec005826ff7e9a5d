"""Recovery of factors: does some latent equal a value, such as the noun fish?

A latent with a threshold says "yes" where its code reaches the threshold. Latent and threshold are
those with the highest F1 = 2 TP / (said + true) on the pictures that choose; other pictures give
the figure. Range of F1 [0, 1], higher is better. All thresholds are tried: every code that occurs.

Codes are a sparse matrix [rows, latents], a row a position or a picture. A code of 0 never says
"yes". Compare the sparse probing and the F1 of single latents in arXiv 2305.01610 and 2503.09532.

Empty cases: a value that no chosen picture shows is no data; a latent that never fires says "no".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Unpack

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from scipy import sparse

from diffusae.evaluation.proportion import wilson
from diffusae.evaluation.result import (
    NO_DATA,
    Estimate,
    Resampling,
    bootstrap_weights,
    percentile_interval,
)

SparseCodes = Any
"""A `scipy.sparse.csc_array` [rows, latents]; SciPy's own types do not know its shape."""


def sparse_codes(
    values: Float[np.ndarray, "n P k"], indices: Int[np.ndarray, "n P k"], d_sae: int
) -> SparseCodes:
    """Codes as a matrix [n * P, d_sae], picture by picture; padding, which is 0, is left out."""
    k = values.shape[-1]
    entries = values.reshape(-1).astype(np.float32)
    rows = np.repeat(np.arange(values.size // max(k, 1)), k)
    kept = entries > 0
    places = (rows[kept], indices.reshape(-1)[kept])
    return sparse.csc_array((entries[kept], places), shape=(values.size // max(k, 1), d_sae))


def pooled(codes: SparseCodes, places: int) -> SparseCodes:
    """The mean of every latent over the places of each picture, [pictures, latents]."""
    n = codes.shape[0] // places
    rows = np.repeat(np.arange(n), places)
    mean: SparseCodes = sparse.csr_array(
        (np.full(len(rows), 1 / places, np.float32), (rows, range(len(rows))))
    )
    return sparse.csc_array(mean @ codes) if n else sparse.csc_array((0, codes.shape[1]))


@dataclass(frozen=True)
class Best:
    """The best latent of each column, its threshold and its F1, on the pictures that chose it."""

    latents: Int[np.ndarray, " columns"]
    thresholds: Float[np.ndarray, " columns"]
    f1: Float[np.ndarray, " columns"]


def best_latents(codes: SparseCodes, holds: Bool[np.ndarray, "rows columns"]) -> Best:
    """The latent and threshold with the highest F1 for each column; of equal ones the first latent
    and the highest threshold.

    Example: codes .9, .5, .5 of one latent at rows that are true, false, true. At .9 it says yes
    once: F1 = 2 * 1 / (1 + 2) = .67. At .5 three times: F1 = 2 * 2 / (3 + 2) = .8, which is chosen.
    Between the two equal codes there is no threshold.
    """
    n_columns = holds.shape[1]
    sizes = np.diff(codes.indptr)
    latent = np.repeat(np.arange(codes.shape[1]), sizes)
    order = np.lexsort((-codes.data, latent))
    values, rows = codes.data[order], codes.indices[order]
    said = np.arange(1, len(order) + 1) - np.repeat(codes.indptr[:-1], sizes)
    # Equal codes of one latent say yes together: all of them have the count of the last.
    last = np.ones(len(order), dtype=bool)
    last[:-1] = (latent[1:] != latent[:-1]) | (values[1:] != values[:-1])
    ends = np.flatnonzero(last)
    said = np.repeat(said[ends], np.diff(ends, prepend=-1))
    found = Best(
        np.zeros(n_columns, np.int64), np.full(n_columns, np.inf), np.zeros(n_columns, np.float64)
    )
    for column, true in enumerate(np.ascontiguousarray(holds.T)):
        # The best threshold is the code of a true row: below it there are only more false ones.
        hit = np.flatnonzero(true[rows])
        if len(hit) == 0:
            continue
        of = latent[hit]
        first = np.flatnonzero(np.diff(of, prepend=-1))
        hits = np.arange(1, len(hit) + 1) - np.repeat(first, np.diff(first, append=len(hit)))
        f1 = 2 * hits / (said[hit] + true.sum())
        best = hit[f1.argmax()]
        found.f1[column] = f1.max()
        found.latents[column], found.thresholds[column] = latent[best], values[best]
    return found


def says(codes: SparseCodes, best: Best) -> Bool[np.ndarray, "rows columns"]:
    """Where the best latent of each column reaches its threshold."""
    own = codes[:, best.latents].toarray() if codes.shape[1] else np.zeros((codes.shape[0], 0))
    return (own >= best.thresholds) & (own != 0)


@dataclass(frozen=True)
class PictureCounts:
    """What each picture adds to the F1 of each column, [pictures, columns]: rows where the answer
    was right and yes, where it was yes, and where yes is true.
    """

    right: NDArray[np.float64]
    said: NDArray[np.float64]
    true: NDArray[np.float64]

    @classmethod
    def of(
        cls, answers: Bool[np.ndarray, "rows columns"], holds: Bool[np.ndarray, "n places columns"]
    ) -> PictureCounts:
        """Answers at every place of every picture beside the truth."""
        answers = answers.reshape(holds.shape)
        counts = (one.sum(axis=1, dtype=np.float64) for one in (answers & holds, answers, holds))
        return cls(*counts)

    def f1(self, weights: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """F1 of every column, [columns]; with `weights` [resamples, pictures] of every resample,
        [resamples, columns]. NaN without a true or claimed row.
        """
        weights = np.ones((1, len(self.right))) if weights is None else weights
        total = weights @ (self.said + self.true)
        f1 = np.divide(
            2 * (weights @ self.right), total, out=np.full(total.shape, np.nan), where=total > 0
        )
        return f1 if len(weights) > 1 else f1[0]


def mean_f1(
    counts: PictureCounts, columns: Sequence[int], **resampling: Unpack[Resampling]
) -> Estimate:
    """The mean F1 of these columns with an interval over pictures; n counts pictures."""
    return mean_over(counts.f1, columns, n=len(counts.right), **resampling)


def mean_over(
    of: Any, columns: Sequence[int], *, n: int, least: float = 0.0, **resampling: Unpack[Resampling]
) -> Estimate:
    """The mean over columns of a statistic of pictures that are resampled; columns without a value
    are left out. `of(weights)` gives it for weights [resamples, n], `of()` for the pictures. Its
    range is [least, 1].
    """
    columns = list(columns)
    values = of()[columns] if columns else np.zeros(0)
    if not np.isfinite(values).any():
        return NO_DATA
    value = float(np.nanmean(values))
    if n == 1:
        return Estimate(value, None, 1)
    spread = of(_weights(n, **resampling))[:, columns]
    spread = spread[np.isfinite(spread).any(axis=1)]
    low, high = percentile_interval(np.nanmean(spread, axis=1)) if len(spread) else (value, value)
    if low == high:
        # No picture differs: Wilson's interval for n pictures, on the range of the figure.
        ends = wilson((value - least) / (1 - least), n)
        low, high = (min(max(least + (1 - least) * end, least), 1.0) for end in ends)
    return Estimate(value, (low, high), n)


@lru_cache(maxsize=8)
def _weights(n: int, **resampling: Unpack[Resampling]) -> NDArray[np.float64]:
    return bootstrap_weights(n, **resampling)
