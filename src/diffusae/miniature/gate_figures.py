"""A figure of the gate, its interval, and the bounds of the worlds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, bootstrap

from diffusae.miniature.worlds import World

LAYOUT = "layout decided by t = 0.7"
STYLE = "style decided between t = 0.6 and t = 0.2"
GRAIN = "grain decided after t = 0.3"
"""Names of the figures of decision times."""
_BOUNDS: dict[str, float] = {
    "autoencoder PSNR (dB)": 28.0,
    "autoencoder hue shift (degrees)": 10.0,
    "annotator mean IoU, renders": 0.90,
    "named objects found": 0.90,
    "found in the named colour": 0.85,
    "style as named": 0.95,
}
BOUNDS: dict[str, dict[str, float]] = {
    "shapes": _BOUNDS,
    "scenes": _BOUNDS
    | {
        "annotator grain right, autoencoded renders": 0.90,
        "grain as named": 0.85,
        "colour bound to its noun, 2 objects": 0.95,
        "colour bound to its noun, 3 objects": 0.95,
        "false objects, a picture": 0.1,
        LAYOUT: 0.8,
        STYLE: 0.8,
        GRAIN: 0.6,
    },
}
"""World -> figure -> the value that it must reach, or must not exceed."""


@dataclass(frozen=True)
class GateFigure:
    """One measured figure: value, 95 % interval, count, and its bound (None: for information).

    Without data the value is None and n is 0; a bound is then not kept.
    """

    name: str
    value: float | None
    ci95: tuple[float, float] | None
    n: int
    bound: float | None = None
    at_least: bool = True

    @property
    def passed(self) -> bool:
        """Whether the bound is kept; a figure without a bound always passes."""
        if self.bound is None:
            return True
        if self.value is None:
            return False
        return self.value >= self.bound if self.at_least else self.value <= self.bound


@dataclass(frozen=True)
class Measure:
    """Makes figures with the bounds of a world."""

    world: World

    def mean(
        self,
        name: str,
        values: Sequence[float] | np.ndarray,
        *,
        bound: float | None = None,
        at_least: bool = True,
    ) -> GateFigure:
        """The mean with a bootstrap interval."""
        array = np.asarray(values, np.float64)
        bound = BOUNDS[self.world.name].get(name, bound)
        if not array.size:
            return GateFigure(name, None, None, 0, bound, at_least)
        value = float(array.mean())
        return GateFigure(name, value, _spread(array), array.size, bound, at_least)

    def share(self, name: str, hits: Sequence[bool]) -> GateFigure:
        """The share of hits with Wilson's interval."""
        bound = BOUNDS[self.world.name].get(name)
        if not len(hits):
            return GateFigure(name, None, None, 0, bound)
        spread = binomtest(int(np.sum(hits)), len(hits)).proportion_ci(method="wilson")
        interval = (float(spread.low), float(spread.high))
        return GateFigure(name, float(np.mean(hits)), interval, len(hits), bound)


def _spread(values: np.ndarray) -> tuple[float, float] | None:
    """The bootstrap interval of a mean. A bootstrap of equal values knows no interval: where all
    are 0, as counts of what never happened are, the exact one of a Poisson mean stands for it.
    """
    if np.ptp(values) == 0:
        return None if values[0] else (0.0, -math.log(0.025) / len(values))
    rng = np.random.default_rng(0)
    spread = bootstrap((values,), np.mean, n_resamples=1000, rng=rng).confidence_interval
    return float(spread.low), float(spread.high)
