"""The tests behind verdicts, against hand-worked numbers and other libraries."""

import math

import numpy as np
import pytest
from scipy import stats

from diffusae.evaluation import case_tests
from diffusae.evaluation.case_tests import Differences, holm, mcnemar, needed, shuffled, sign_flip


def paired(*values: float, **others) -> Differences:
    given = {"other": None, "span": (-1.0, 1.0), "cases": len(values), "test": "sign_flip"}
    return Differences(np.array(values, float), **{**given, **others})  # type: ignore[arg-type]


def test_all_flips_of_few_pictures_are_made_and_pictures_without_a_difference_say_nothing():
    assert sign_flip(np.array([1.0, 1, 1])) == 1 / 8
    # Sums of 3, 1, -1, -3 and so on with 2 and 1: 3 and 1 of the four reach 1.
    assert sign_flip(np.array([2.0, -1, 0, 0])) == 2 / 4
    assert sign_flip(np.zeros(5)) == 1.0


def test_the_flips_of_many_pictures_agree_with_scipy():
    rng = np.random.default_rng(3)
    values = rng.normal(0.2, 1, 40)
    theirs = stats.permutation_test(
        (values,), np.sum, permutation_type="samples", alternative="greater", n_resamples=9999
    )
    assert sign_flip(values) == pytest.approx(float(theirs.pvalue), abs=0.02)


def test_mcnemar_counts_the_pictures_that_changed():
    values = np.array([1.0] * 9 + [-1.0] * 2 + [0.0] * 30)
    # (55 + 11 + 1) / 2^11
    assert mcnemar(values) == pytest.approx(67 / 2048)
    assert mcnemar(np.zeros(4)) == 1.0
    assert sign_flip(values) == pytest.approx(67 / 2048)  # the same test


def test_things_of_two_sides_are_shuffled():
    own, other = np.array([3.0, 4]), np.array([1.0, 2])
    assert shuffled(own, other) == pytest.approx(1 / 6, abs=0.01)  # one of 4 choose 2
    assert shuffled(own, own) > 0.5


@pytest.mark.parametrize(("seen", "n", "margin"), [(0, 50, 0.1), (1, 50, 0.1), (3, 40, 0.25)])
def test_a_share_is_bounded_as_the_binomial_test_bounds_it(seen, n, margin):
    values = paired(*[1.0] * seen, *[0.0] * (n - seen), span=(0.0, 1.0), test=None)
    exact = stats.binomtest(seen, n, margin, alternative="less").pvalue
    assert values.p_below(margin) == pytest.approx(exact, abs=0.005)


def test_the_interval_of_a_share_has_a_width_at_0_and_at_1():
    low, high = paired(*[1.0] * 20, span=(0.0, 1.0), test=None).interval
    exact = stats.binomtest(20, 20).proportion_ci(0.95)
    assert (low, high) == pytest.approx((exact.low, 1.0), abs=0.01)
    low, high = paired(*[0.0] * 20, span=(0.0, 1.0), test=None).interval
    assert (low, high) == pytest.approx((0.0, 1 - exact.low), abs=0.01)


def test_the_other_way_round_the_interval_is_mirrored():
    one = paired(0.4, 0.1, -0.2, 0.3, 0.3)
    low, high = one.interval
    assert low < one.effect < high
    other = one.negative
    assert other.interval == pytest.approx((-high, -low), abs=0.02)
    assert (other.effect, other.span) == (pytest.approx(-one.effect), (-1.0, 1.0))


def test_two_sides_differ_by_their_means_and_each_has_an_imagined_thing():
    sides = paired(0.9, 0.8, 1.0, other=np.array([0.5, 0.3]), test="permutation")
    assert sides.effect == pytest.approx(0.5)
    assert sides.n == 2
    assert sides.negative.effect == pytest.approx(-0.5)
    assert sides.negative.p_below(0) == pytest.approx(0.1, abs=0.01)  # 1 of 5 choose 3
    # Three things say little of what a mean in [-1, 1] can be.
    low, high = sides.interval
    assert low < -0.3 and high > 1


def test_holm_as_worked_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    # statsmodels.stats.multitest.multipletests(..., method="holm"): the same, cut off at 1
    assert holm([0.9, 0.6, 0.2]) == pytest.approx([1.0, 1.0, 0.6])
    assert holm([]) == []


def test_the_needed_pictures_as_worked_by_hand():
    one = paired(-0.4, 0.4, -0.4, 0.4, -0.4, 0.4)  # mean 0, spread .4 * sqrt(6 / 5)
    spread = 0.4 * math.sqrt(6 / 5)
    expected = math.ceil(((1.6449 + 0.8416) * spread / 0.2) ** 2)
    assert needed(one, 0.2, level=0.05, power=0.8) == expected == 30
    assert needed(one, 0.0, level=0.05, power=0.8) == math.inf
    # .9^n <= .01
    never = paired(*[0.0] * 5, span=(0.0, 1.0))
    assert needed(never, 0.1, level=0.01, power=0.8) == 44


def test_so_many_pictures_decide_in_four_of_five_studies(monkeypatch):
    monkeypatch.setattr(case_tests, "DRAWS", 2000)
    rng = np.random.default_rng(0)
    one = paired(*np.clip(rng.normal(0.1, 0.3, 2000), -1, 1))
    n = int(needed(one.negative, 0.0, level=0.05, power=0.8))
    decided = [sign_flip(np.clip(rng.normal(0.1, 0.3, n), -1, 1)) <= 0.05 for _ in range(60)]
    assert 0.65 < np.mean(decided) < 0.95
