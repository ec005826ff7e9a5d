"""The kernel distance of two sets of pictures: KID with other features.

KID (Binkowski et al., arXiv 1801.01401) is the squared maximum mean discrepancy, unbiased, under
the kernel k(x, y) = (x.y / d + 1)^3 on Inception features. Here the features are the annotator's.
They have different units, so each is standardised by the first set. Range (-inf, inf), lower is
closer, 0 = the same distribution. The estimate is unbiased: for equal distributions it is below 0
about half of the time. FID would need thousands of pictures; this distance is sound for dozens.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from diffusae.errors import UserError
from diffusae.evaluation.result import NO_DATA, Estimate, bootstrap_weights, percentile_interval

Features = Float[np.ndarray, "n d"]


def kernel_distance(
    before: Features, after: Features, *, n_resamples: int = 500, seed: int = 0
) -> Estimate:
    """The distance with an interval over pictures; fewer than two pictures: no data.

    Row i of both sets is the same prompt and seed. The interval draws pictures with replacement,
    before and after together. A picture that was drawn twice is not compared with itself, so that
    the resampled distances stay unbiased.

    Raises:
        UserError: sets of different shapes.
    """
    if before.shape != after.shape:
        raise UserError(
            f"features {list(before.shape)} and {list(after.shape)} differ;"
            " compare the same prompts"
        )
    n = len(before)
    if n < 2:
        return NO_DATA
    one, other = standardised(before, after)
    gram = [_kernel(one, one), _kernel(other, other), _kernel(one, other)]
    value = _distance(np.ones((1, n)), gram)[0]
    spread = _distance(bootstrap_weights(n, n_resamples=n_resamples, seed=seed), gram)
    spread = spread[np.isfinite(spread)]
    low, high = percentile_interval(spread) if len(spread) else (value, value)
    return Estimate(float(value), (min(low, float(value)), max(high, float(value))), n)


def standardised(
    before: Features, after: Features
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both sets, standardised by the first; features that are constant there are left out."""
    one, other = np.asarray(before, np.float64), np.asarray(after, np.float64)
    spread = one.std(axis=0)
    varies = spread > 1e-8 * max(float(spread.max(initial=0.0)), 1e-12)
    mean, deviation = one.mean(axis=0)[varies], spread[varies]
    return (one[:, varies] - mean) / deviation, (other[:, varies] - mean) / deviation


def _kernel(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    return (one @ other.T / max(one.shape[1], 1) + 1) ** 3


def _distance(weights: NDArray[np.float64], gram: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """MMD^2 of weighted pictures, one value for each row of `weights`.

    All three terms are sums over pairs of different pictures. The cross term too leaves out pairs
    of one picture before and after: they are no independent draws.
    """
    own, edited, cross = (products - np.diag(np.diag(products)) for products in gram)
    pairs = weights.sum(axis=1) ** 2 - (weights**2).sum(axis=1)
    total = np.einsum("bi,ij,bj->b", weights, own + edited - 2 * cross, weights)
    return np.divide(total, pairs, out=np.full_like(total, np.nan), where=pairs > 0)
