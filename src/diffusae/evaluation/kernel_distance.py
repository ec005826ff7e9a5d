"""How far apart are two sets of pictures? The kernel distance of their features: KID with features
of one's own.

KID (Binkowski et al., arXiv 1801.01401) is the squared maximum mean discrepancy, unbiased, under
the kernel k(x, y) = (x.y / d + 1)^3 on Inception features. Here the features are the annotator's,
each standardised by the first set, as they come in different units. Range (-inf, inf), lower is
closer, 0 = the same distribution; being unbiased, it is below 0 about half of the time where they
are the same. FID is not used: it needs thousands of pictures, this is sound for dozens.
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
    """The distance with an interval over pictures; row i of both is the same prompt and seed. Fewer
    than two: no data.

    The interval draws pictures with replacement, before and after together; a picture is never
    compared with itself, also where it was drawn twice, so that the resampled distances stay
    unbiased.

    Raises:
        UserError: sets of different shapes.
    """
    if before.shape != after.shape:
        raise UserError(
            f"features {list(before.shape)} and {list(after.shape)} differ; compare the same"
            " prompts"
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
    """Both sets in standard deviations of the first from its mean; features that do not vary there
    are left out.
    """
    one, other = (np.asarray(each, np.float64) for each in (before, after))
    spread = one.std(axis=0)
    varies = spread > 1e-8 * max(float(spread.max(initial=0.0)), 1e-12)
    return tuple(
        (each[:, varies] - one.mean(axis=0)[varies]) / spread[varies] for each in (one, other)
    )  # type: ignore[return-value]


def _kernel(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    return (one @ other.T / max(one.shape[1], 1) + 1) ** 3


def _distance(weights: NDArray[np.float64], gram: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """MMD^2 of weighted pictures, a row of `weights` each: sums over pairs of different pictures,
    in all three terms alike.

    The cross term leaves the pairs of one picture before and after out too: they are no independent
    draws.
    """
    own, edited, cross = (each - np.diag(np.diag(each)) for each in gram)
    pairs = weights.sum(axis=1) ** 2 - (weights**2).sum(axis=1)
    total = np.einsum("bi,ij,bj->b", weights, own + edited - 2 * cross, weights)
    return np.divide(total, pairs, out=np.full_like(total, np.nan), where=pairs > 0)
