"""Wilson's interval, against published figures and by hand."""

import numpy as np
import pytest
from scipy.stats import binomtest

from diffusae.evaluation.proportion import effective_number, share, share_difference
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


FIVE = [f"p{n}" for n in range(5) for _ in range(4)]
"""The pictures of 20 cases: 4 each."""


def test_the_effective_number_is_worked_by_hand():
    # The pictures have 2 and 1 of 2; four more have 2, 2, 0, 0. p = 7/12; deviations of the sums
    # from 2p = 7/6: (5/6)^2 + (1/6)^2 + 2 (5/6)^2 + 2 (7/6)^2 = 174/36, over 12^2.
    variance = 174 / 36 / 144
    expected = (7 / 12) * (5 / 12) / variance * 2 / 6
    got = effective_number(np.array([2.0, 1.0]), np.array([2.0, 2.0]))
    assert got == pytest.approx(expected)
    assert got == pytest.approx(2.41, abs=0.01)


@pytest.mark.parametrize("outcome", [True, False])
def test_where_all_cases_agree_the_interval_is_that_of_the_pictures(outcome):
    # Two outcomes that differ within no picture say nothing of what a case more would say.
    estimate, of_pictures = share([outcome] * 20, FIVE), share([outcome] * 5)
    assert estimate.ci95 == pytest.approx(of_pictures.ci95)
    assert (estimate.n, estimate.clusters, estimate.counted) == (20, 5, "20 of 5 pictures")
    assert estimate.ci95 is not None
    assert estimate.ci95[1] - estimate.ci95[0] > 0.4


def test_a_case_that_fails_does_not_make_the_interval_narrower():
    all_hold, one_fails = share([True] * 20, FIVE), share([True] * 19 + [False], FIVE)
    assert all_hold.ci95 is not None
    assert one_fails.ci95 is not None
    assert one_fails.ci95[0] < all_hold.ci95[0] + 0.02
    assert one_fails.ci95[1] - one_fails.ci95[0] > all_hold.ci95[1] - all_hold.ci95[0] - 0.02


def test_pictures_that_all_have_the_same_share_have_no_more_than_their_cases():
    # Without an edit an object lies in exactly one of four regions: the share of no picture varies.
    pictures = np.repeat(np.arange(50), 4).tolist()
    own = share([True, False, False, False] * 50, pictures)
    assert own.ci95 == pytest.approx(share([True] * 50 + [False] * 150).ci95)


def test_many_pictures_with_independent_cases_count_almost_all_of_them():
    drawn = np.random.default_rng(0).random(2000) < 0.5
    groups = np.repeat(np.arange(500), 4).tolist()
    low, high = share(drawn.tolist(), groups).ci95 or (0, 0)
    assert high - low == pytest.approx(2 * 1.96 * (0.25 / 2000) ** 0.5, rel=0.06)


def test_one_picture_has_an_interval():
    assert share([True, True], ["p", "p"]).ci95 == pytest.approx(share([True]).ci95)


def test_shares_of_a_cases_parts_count_as_they_are():
    assert share([0.5, 1.0, 0.0, 0.5]).value == 0.5


def test_a_difference_that_is_nowhere_has_an_interval_about_0():
    # Four pictures: (1 + 0)/2 = .5 each; with 1, 1, 0, 0 added: V = 4 x .25 / 8^2 = 1/64, so
    # .25 x 64 x 4/8 = 8 cases, and Wilson's interval of .5 of 8 is .2152 to .7848.
    estimate = share_difference([0.0] * 4)
    assert estimate.value == 0.0
    assert estimate.ci95 == pytest.approx((2 * 0.2152 - 1, 2 * 0.7848 - 1), abs=2e-4)


def test_a_difference_of_1_throughout_has_the_interval_of_a_share_of_1():
    low, high = share_difference([1.0] * 20, FIVE).ci95 or (0, 0)
    assert (1 + low) / 2 == pytest.approx((share([True] * 5).ci95 or (0,))[0])
    assert high == 1.0


def test_differences_over_many_pictures_have_the_width_of_the_normal_approximation():
    values = np.random.default_rng(1).choice([-1.0, 0.0, 0.0, 1.0, 1.0], size=400)
    low, high = share_difference(values).ci95 or (0, 0)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.05)
    assert low < values.mean() < high


def test_without_a_difference_there_are_no_data():
    assert share_difference([]) == NO_DATA
