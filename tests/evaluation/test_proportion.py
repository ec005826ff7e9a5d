"""Wilson's interval, against published figures."""

import pytest
from scipy.stats import binomtest

from diffusae.evaluation.proportion import share
from diffusae.evaluation.result import NO_DATA


@pytest.mark.parametrize(("yes", "n"), [(0, 10), (10, 10), (1, 1), (3, 24), (17, 40)])
def test_the_interval_is_wilsons(yes, n):
    estimate = share([True] * yes + [False] * (n - yes))
    wanted = binomtest(yes, n).proportion_ci(method="wilson")
    assert (estimate.value, estimate.n) == (yes / n, n)
    assert estimate.ci95 == pytest.approx((wanted.low, wanted.high), abs=1e-12)


def test_at_0_of_10_the_interval_reaches_to_a_little_over_a_quarter():
    assert share([False] * 10).ci95 == pytest.approx((0.0, 0.2775), abs=1e-4)


def test_no_outcomes_are_no_data():
    assert share([]) == NO_DATA
