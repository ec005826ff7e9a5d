"""How small a difference a figure can see, from its interval and from its spread over SAE seeds.

The rule: two figures that are measured in the same way on other pictures, of autoencoders of other
seeds, differ by chance with a standard deviation of sqrt(2 (s^2 + r^2)). Here s is half the
width of the 95 % interval over 1.96, its standard error, and r the standard deviation over seeds (0
where fewer than two are known). A true difference of (1.96 + 0.84) times that is seen at the 5 %
level in 80 % of trials. That is the smallest difference.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from diffusae.evaluation.proportion import Z95
from diffusae.evaluation.result import Estimate

ORACLE = "oracle_ceiling"
"""The name of the oracle among the baselines of a row."""
Z80 = 0.8416212335729143
"""The 80 % point of the standard normal."""


def smallest_difference(
    figure: Estimate, beside: Mapping[str, Estimate], of_seeds: Sequence[float]
) -> dict[str, Any]:
    """Details of a row: `smallest_difference`, `reseed_deviation` with `n_seeds`, and `steps`.

    `steps`: from the oracle to the nearer of the other subjects, in smallest differences. A metric
    with few steps can hardly tell truth from chance. None: there is no interval, or no oracle.

    Args:
        beside: the oracle's figure and those of the subjects that hold no truth.
        of_seeds: the figure of every seed, the figure itself among them.
    """
    n = len(of_seeds)
    spread = float(np.std(of_seeds, ddof=1)) if n > 1 else None
    least = None
    if figure.ci95 is not None:
        error = (figure.ci95[1] - figure.ci95[0]) / (2 * Z95)
        least = (Z95 + Z80) * math.sqrt(2 * (error**2 + (spread or 0.0) ** 2))
    return {
        "smallest_difference": least,
        "reseed_deviation": spread,
        "n_seeds": n,
        "steps": _steps(least, beside),
    }


def _steps(least: float | None, beside: Mapping[str, Estimate]) -> float | None:
    oracle = beside[ORACLE].value if ORACLE in beside else None
    controls = [one.value for name, one in beside.items() if name != ORACLE]
    known = [abs(value - oracle) for value in controls if value is not None and oracle is not None]
    return min(known) / least if known and least else None
