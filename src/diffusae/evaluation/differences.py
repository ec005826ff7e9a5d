"""The difference of two figures that were measured apart, with its interval."""

from __future__ import annotations

import math

from diffusae.evaluation.result import NO_DATA, Estimate


def difference(figure: Estimate, other: Estimate) -> Estimate:
    """`figure` minus `other`, with the interval that follows from theirs.

    The interval is the "method of variance estimates recovery" (Zou & Donner, Statistics in
    Medicine 27, 2008): its lower end lies below the difference by the root of (value - low)^2 +
    (other high - other value)^2, its upper end above it likewise. It takes the two as independent.
    Figures of the same pictures go up and down together, so the interval is then wider than need
    be. n is the smaller of the two; without both intervals there is none.

    Example: 0.6 [0.5, 0.7] minus 0.2 [0.1, 0.4] is 0.4, from 0.4 - sqrt(0.1^2 + 0.2^2) = 0.176 to
    0.4 + sqrt(0.1^2 + 0.1^2) = 0.541.
    """
    if figure.value is None or other.value is None:
        return NO_DATA
    value, n = figure.value - other.value, min(figure.n, other.n)
    if figure.ci95 is None or other.ci95 is None:
        return Estimate(value, None, n)
    (low, high), (other_low, other_high) = figure.ci95, other.ci95
    below = math.hypot(figure.value - low, other_high - other.value)
    above = math.hypot(high - figure.value, other.value - other_low)
    return Estimate(value, (value - below, value + above), n)
