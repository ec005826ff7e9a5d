"""Tests and intervals of mean differences, picture by picture, and Holm's correction.

All p values are one-sided, and every picture (or caption) counts once, as the mean of its cases:
cases of one picture are not independent.

- **Is there a difference?** Two figures of the same pictures: the signs of the pictures'
  differences are flipped (Fisher's paired permutation test), all of them where there are few. For
  one share a picture this is McNemar's exact test, whose p value is a binomial one. Figures of
  other things on both sides (the concepts of two dictionaries): the things are shuffled.
- **Is the difference smaller than a margin, or a figure above a constant?** Nothing can be flipped
  there, and a t test is wrong for shares near 0 or 1. So the mean is bounded from what its values
  can be at all (Gaffke's bound; Learned-Miller and Thomas, arXiv 1905.06208, conjecture that it
  holds for every distribution): one imagined picture has the worst value that is possible, and the
  pictures are weighted at random.

  Example: 0 of 50 pictures show an effect. The p value of "the share is .1 or more" is
  .9^50 = .005, as the exact binomial test has it; so a share that was never seen is not "0 for
  sure".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from diffusae.evaluation.result import Interval

DRAWS = 20_000
_EXACT = 14
"""Of at most so many pictures, all 2^n flips are made."""
_AT_ONCE = 1000

TestName = Literal["sign_flip", "mcnemar", "permutation"]
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Differences:
    """One figure minus another one.

    Attributes:
        own: the difference of every picture; with `other`, the values of every thing on one side.
        other: the values on the other side, of other things; None: `own` are differences.
        span: the least and the greatest value of `own`, and of `other`, that is possible.
        cases: what the values were made of.
        test: by which it is tested against 0; None: by the bound alone.
        seed: of the draws.
    """

    own: Values
    other: Values | None
    span: Interval
    cases: int
    test: TestName | None
    seed: int = 0

    @cached_property
    def negative(self) -> Differences:
        """The other figure minus the one."""
        if self.other is not None:
            return replace(self, own=self.other, other=self.own)
        return replace(self, own=-self.own, span=(-self.span[1], -self.span[0]))

    @property
    def n(self) -> int:
        """The pictures; of two sides those of the smaller one."""
        return len(self.own) if self.other is None else min(len(self.own), len(self.other))

    @property
    def effect(self) -> float:
        """The mean difference."""
        other = 0.0 if self.other is None else float(self.other.mean())
        return float(self.own.mean()) - other

    @property
    def spread(self) -> float:
        """The standard deviation of a difference of n and n values, for the count of pictures that
        a decision needs.
        """
        sides = [self.own] if self.other is None else [self.own, self.other]
        return math.sqrt(sum(float(side.var(ddof=1)) for side in sides if len(side) > 1))

    @cached_property
    def bounds(self) -> Values:
        """Draws of the mean with an imagined picture at the greatest difference, in order."""
        rng, (low, high) = np.random.default_rng(self.seed), self.span
        means = _weighted(np.append(self.own, high), rng)
        if self.other is not None:
            means -= _weighted(np.append(self.other, low), rng)
        return np.sort(means)

    @property
    def interval(self) -> Interval:
        """The 95 % interval of the mean; it has a width also where all values agree."""
        high = float(np.quantile(self.bounds, 0.975))
        return -float(np.quantile(self.negative.bounds, 0.975)), high

    def p_below(self, margin: float) -> float:
        """Of "the mean is `margin` or more"; of 0 by the `test`."""
        if margin == 0 and self.test is not None:
            if self.other is not None:
                return shuffled(self.other, self.own, seed=self.seed)
            own = self.negative.own
            return mcnemar(own) if self.test == "mcnemar" else sign_flip(own, seed=self.seed)
        below = int(np.searchsorted(self.bounds, margin - 1e-12))
        return (1 + len(self.bounds) - below) / (1 + len(self.bounds))


def _weighted(values: Values, rng: np.random.Generator) -> Values:
    """Means of the values with random weights that add up to 1, all weights alike likely."""
    means = []
    for _ in range(DRAWS // _AT_ONCE):
        weights = rng.standard_exponential((_AT_ONCE, len(values)))
        means.append(weights @ values / weights.sum(axis=1))
    return np.concatenate(means)


def sign_flip(differences: Values, *, seed: int = 0) -> float:
    """The p value of "the differences are as often above 0 as below it".

    Example: 1, 1 and 1 have one of eight flips with so large a sum: .125.
    """
    values = differences[differences != 0]
    n, reach = len(values), values.sum() - 1e-9 * np.abs(values).sum()
    if not n:
        return 1.0
    # A sum with some signs flipped reaches the sum without where those that stay add up to it.
    if n <= _EXACT:
        stay = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
        return float((stay @ values >= reach).mean())
    rng, reached = np.random.default_rng(seed), 0
    for _ in range(DRAWS // _AT_ONCE):
        drawn = rng.integers(0, 256, (_AT_ONCE, -(-n // 8)), dtype=np.uint8)
        reached += int((np.unpackbits(drawn, axis=1)[:, :n] @ values >= reach).sum())
    return (1 + reached) / (1 + DRAWS)


def mcnemar(differences: Values) -> float:
    """The same of shares, differences of -1, 0 and 1: exact, by the binomial distribution."""
    from scipy.stats import binomtest

    more, less = int((differences > 0).sum()), int((differences < 0).sum())
    if more + less == 0:
        return 1.0
    return float(binomtest(more, more + less, 0.5, alternative="greater").pvalue)


def shuffled(own: Values, other: Values, *, seed: int = 0) -> float:
    """The p value of "both sides are alike", by shuffling the values over the sides."""
    rng, n = np.random.default_rng(seed), len(own)
    values, reached = np.concatenate([own, other]), 0
    observed = own.sum() - 1e-9 * np.abs(values).sum()
    for _ in range(DRAWS // _AT_ONCE):
        mixed = rng.permuted(np.tile(values, (_AT_ONCE, 1)), axis=1)
        reached += int((mixed[:, :n].sum(axis=1) >= observed).sum())
    return (1 + reached) / (1 + DRAWS)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p values, in the order of `p_values`.

    The least of m values counts m times, the next m - 1 times, and none less than the one before.

    Example: .01, .04, .03, .005 become .03, .06, .06, .02.
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, least = [0.0] * len(p_values), 0.0
    for place, index in enumerate(order):
        least = max(least, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = least
    return adjusted


def needed(below: Differences, margin: float, *, level: float, power: float) -> float:
    """How many pictures show with this power that the mean is below `margin`, if mean and spread
    are as they were seen: ((z(1 - level) + z(power)) * spread / gap)^2, with gap = margin - mean.
    Values that all agree have no spread; they need log(level) / log(1 - gap / (highest - mean))
    pictures, by the bound. Infinite where the mean is not below.

    Example: spread .4, gap .2, level .05, power .8: (1.645 + .842)^2 * 4 = 24.7, so 25 pictures.
    """
    from scipy.stats import norm

    gap = margin - below.effect
    if gap <= 1e-12:
        return math.inf
    if below.spread == 0:
        share = gap / (below.span[1] - below.effect)
        return math.ceil(math.log(level) / math.log1p(-min(share, 0.999)))
    z = float(norm.ppf(1 - level) + norm.ppf(power))
    return math.ceil((z * below.spread / gap) ** 2)
