"""Shares with Wilson's interval on their effective number of cases, which has width at 0 and 1."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffusae.evaluation.result import NO_DATA, Estimate, Interval, by_group

Z95 = 1.959963984540054
"""The 97.5 % point of the standard normal."""
_ADDED = 2


def share(outcomes: Iterable[float], groups: Sequence[Any] | None = None) -> Estimate:
    """The share of true outcomes; range [0, 1]; no outcomes: no data.

    An outcome is True, False, or the share of a case's own parts. Without `groups` every case is of
    another picture, and the interval is Wilson's (1927) of n cases:
    (p + z^2/2n +- z sqrt(p (1 - p)/n + z^2/4n^2)) / (1 + z^2/n). With `groups`, the picture of each
    case, n in it is the effective number of cases (Korn & Graubard 1998), see `effective_number`.
    It is the number of pictures where all cases agree, and never above the number of cases.

    Example: 5 pictures of 4 cases each, and all 20 hold: n = 5, 1.00 [.57, 1.00]. 50 pictures of 4
    cases, and of each picture one holds: n is bounded by 200, .25 [.20, .31].
    """
    values = np.array([float(outcome) for outcome in outcomes])
    if not len(values):
        return NO_DATA
    sums, counts = by_group(values, groups)
    p, n, clusters = float(values.mean()), len(values), len(sums)
    effective = min(effective_number(sums, counts), float(n))
    return Estimate(p, wilson(p, effective), n, clusters if clusters < n else None)


def share_difference(differences: Iterable[float], groups: Sequence[Any] | None = None) -> Estimate:
    """The mean difference of two shares of the same cases; range [-1, 1], each case's as well.

    The interval is that of `share` for (1 + difference) / 2, without the bound by the number of
    cases: most differences are 0, which varies less than a share of one half does. It has width
    also where all cases agree, unlike a bootstrap.
    """
    values = np.array([float(difference) for difference in differences])
    if not len(values):
        return NO_DATA
    sums, counts = by_group((1 + values) / 2, groups)
    mean, n, clusters = float(values.mean()), len(values), len(sums)
    low, high = wilson((1 + mean) / 2, effective_number(sums, counts))
    interval = min(mean, 2 * low - 1), max(mean, 2 * high - 1)
    return Estimate(mean, interval, n, clusters if clusters < n else None)


def wilson(p: float, n: float) -> Interval:
    """Wilson's interval of a share p of n cases, which n need not be whole."""
    z2 = Z95**2
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return max(0.0, min(p, middle - half)), min(1.0, max(p, middle + half))


def effective_number(sums: NDArray[np.float64], counts: NDArray[np.float64]) -> float:
    """How many independent cases would vary as these pictures do.

    With the variance V of the share over G pictures, p (1 - p) / V. Where all cases agree, V and
    p (1 - p) are 0 and tell nothing. So two pictures that hold throughout and two that never do are
    added first, all of the mean size (as Agresti & Coull 1998 add two successes and two failures to
    a share), and the result is scaled by G / (G + 4). With one case a picture this gives G exactly,
    and so it does where all cases agree in pictures of one size.

    Example: two pictures of two cases; both cases of the first hold, one of the second. With the
    four added: p = (2 + 1 + 4) / 12 = .583, V = sum (sum_g - p count_g)^2 / 12^2 = (.694 + .028 +
    2 x .694 + 2 x 1.361) / 144 = .0336. So .243 / .0336 x 2 / 6 = 2.41.

    Args:
        sums: of the outcomes of each picture.
        counts: its cases.
    """
    size = counts.mean()
    sums = np.concatenate([sums, np.repeat([size, 0.0], _ADDED)])
    counts = np.concatenate([counts, np.repeat(size, 2 * _ADDED)])
    p = sums.sum() / counts.sum()
    variance = np.square(sums - p * counts).sum() / counts.sum() ** 2
    real = len(sums) - 2 * _ADDED
    return float(p * (1 - p) / variance * real / len(sums))
