"""When a model decides something: from which step on another caption comes too late.

Pictures are made with one caption down to t and with another one from t on. The share of pictures
that show the other caption's value falls from its ceiling (the other caption throughout, t = 1) to
chance (never, t = 0). The decision time t* is where it falls below one half.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from diffusae.errors import UserError
from diffusae.evaluation.result import NO_DATA, Estimate, bootstrap_weights, percentile_interval


def decision_time(
    times: Sequence[float], shown: NDArray[np.bool_], *, n_resamples: int, seed: int
) -> Estimate:
    """The decision time t* over captions; range [0, 1], a larger t is earlier. n: captions.

    The 95 % interval resamples captions. It always holds the two moments around t*, since nothing
    was tried between them. No data where the other caption throughout shows its value in less than
    half of the pictures, or the first caption does so in half of them or more. A single caption has
    no interval.

    Args:
        times: at which the other caption begins: falling from 1 (throughout) to 0 (never).
        shown: [captions, times], whether the picture shows the other caption's value.
    """
    if shown.ndim != 2 or shown.shape[1] != len(times) or len(times) < 2:
        raise UserError(f"{len(times)} times need a column each, got {list(shown.shape)}")
    shares = shown.mean(axis=0) if len(shown) else np.zeros(len(times))
    if shares[0] < 0.5 or shares[-1] >= 0.5:
        return NO_DATA
    value, n = float(_falls_below_half(times, shares)), len(shown)
    if n == 1:
        return Estimate(value, None, n)
    weights = bootstrap_weights(n, n_resamples=n_resamples, seed=seed)
    resampled = [_falls_below_half(times, row) for row in weights @ shown.astype(float) / n]
    low, high = percentile_interval(np.array(resampled))
    after = int(np.flatnonzero(shares >= 0.5)[-1]) + 1
    return Estimate(value, (min(low, times[after]), max(high, times[after - 1])), n)


def _falls_below_half(times: Sequence[float], shares: NDArray[np.float64]) -> float:
    """The t from which on all shares are below one half, interpolated between two moments.

    Example: the shares 1, .75, .25, 0 at t = 1, .6, .2, 0 give .4. Without any share of one half
    it is 1, and with half at "never" it is 0.
    """
    enough = np.flatnonzero(shares >= 0.5 - 1e-12)
    if not len(enough):
        return times[0]
    last = int(enough[-1])
    if last == len(times) - 1:
        return times[-1]
    part = (shares[last] - 0.5) / (shares[last] - shares[last + 1])
    return times[last] - part * (times[last] - times[last + 1])
