"""The smallest difference by hand, and through simulated trials."""

import numpy as np
import pytest

from diffusae.evaluation.proportion import Z95
from diffusae.evaluation.result import Estimate
from diffusae.evaluation.sensitivity import ORACLE, Z80, smallest_difference

FIGURE = Estimate(0.5, (0.5 - 0.1 * Z95, 0.5 + 0.1 * Z95), 40)  # standard error .1
BESIDE = {
    name: Estimate(value, None, 1)
    for name, value in ((ORACLE, 0.9), ("permuted_labels", 0.2), ("random_weights", 0.3))
}


def test_the_interval_alone_and_with_the_spread_over_seeds_by_hand():
    alone = smallest_difference(FIGURE, BESIDE, [0.5])
    assert alone["smallest_difference"] == pytest.approx((Z95 + Z80) * 2**0.5 * 0.1)
    assert alone["reseed_deviation"] is None and alone["n_seeds"] == 1
    assert alone["steps"] == pytest.approx(0.6 / alone["smallest_difference"]), "the nearer control"
    seeds = smallest_difference(FIGURE, BESIDE, [0.5, 0.3, 0.7])
    assert seeds["reseed_deviation"] == pytest.approx(0.2)
    assert seeds["smallest_difference"] == pytest.approx((Z95 + Z80) * (2 * (0.01 + 0.04)) ** 0.5)


def test_a_difference_of_that_size_is_seen_in_four_of_five_trials():
    least = smallest_difference(FIGURE, {}, [0.5])["smallest_difference"]
    rng = np.random.default_rng(0)
    measured = rng.normal(0.5 + least, 0.1, 40_000) - rng.normal(0.5, 0.1, 40_000)
    assert np.mean(measured > Z95 * 2**0.5 * 0.1) == pytest.approx(0.8, abs=0.01)


def test_without_an_interval_or_an_oracle_nothing_is_said():
    assert smallest_difference(Estimate(0.5, None, 1), {}, [])["smallest_difference"] is None
    assert smallest_difference(FIGURE, {}, [0.5])["steps"] is None
