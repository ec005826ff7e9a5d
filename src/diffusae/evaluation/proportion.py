"""Shares with Wilson's interval, which holds for few cases and at 0 and 1, unlike a bootstrap."""

from __future__ import annotations

import math
from collections.abc import Iterable

from diffusae.evaluation.result import NO_DATA, Estimate

Z95 = 1.959963984540054
"""The 97.5 % point of the standard normal."""


def share(outcomes: Iterable[bool]) -> Estimate:
    """The share of true outcomes; range [0, 1]; no outcomes: no data.

    Wilson (1927): (p + z^2/2n +- z sqrt(p (1 - p)/n + z^2/4n^2)) / (1 + z^2/n). The outcomes are
    taken as independent: one a picture.
    """
    given = [bool(outcome) for outcome in outcomes]
    n = len(given)
    if not n:
        return NO_DATA
    p, z2 = sum(given) / n, Z95**2
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return Estimate(p, (max(0.0, min(p, middle - half)), min(1.0, max(p, middle + half))), n)
