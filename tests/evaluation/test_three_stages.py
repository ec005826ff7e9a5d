"""Differences case by case, against hand-worked figures."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
import pytest

from diffusae.evaluation.result import NO_DATA, Estimate, bootstrap_mean
from diffusae.evaluation.three_stages import difference_to, paired_difference, standing

CELL = {"model": "miniature", "block": "down", "t": 0.8, "conditioning": "cond"}


def difference(own: dict, other: dict, pictures: dict | None = None) -> Estimate:
    pictures = pictures or {case: case for case in own}
    return paired_difference(own, other, pictures=pictures, n_resamples=400, seed=0)


def test_the_difference_is_the_mean_over_the_cases_that_both_have():
    own = {"a": 1.0, "b": 1.0, "c": 0.0, "only own": 1.0, "not measured": float("nan")}
    other = {"a": 0.0, "b": 1.0, "c": 0.0, "only other": 1.0, "not measured": 0.0}
    estimate = difference(own, other)
    assert estimate.value == pytest.approx(1 / 3)
    assert estimate.n == 3


def test_a_constant_difference_is_seen_where_the_methods_own_intervals_overlap():
    hard = np.linspace(0, 0.9, 12)  # how likely a case is, whatever the method
    own, other = ({str(i): value + gain for i, value in enumerate(hard)} for gain in (0.1, 0.0))
    estimate = difference(own, other)
    assert estimate.ci95 == pytest.approx((0.1, 0.1))
    above, below = (bootstrap_mean(list(values.values())).ci95 for values in (own, other))
    assert above is not None and below is not None
    assert above[0] < below[1]


def test_cases_of_one_picture_are_resampled_together():
    cases = [(picture, region) for picture in ("p0", "p1") for region in range(50)]
    own = {case: float(case[0] == "p0") for case in cases}
    other = dict.fromkeys(own, 0.0)
    assert difference(own, other, {case: case[0] for case in own}).ci95 == (0.0, 1.0)
    one = dict.fromkeys(own, "p0")
    assert difference(own, other, one).ci95 is None


def test_a_success_of_every_case_of_few_pictures_has_an_interval_with_width():
    cases: list[Hashable] = [(picture, region) for picture in range(5) for region in range(4)]
    own, other = dict.fromkeys(cases, 1.0), dict.fromkeys(cases, 0.0)
    pictures: dict[Hashable, Hashable] = {case: n // 4 for n, case in enumerate(cases)}
    low, high = paired_difference(own, other, pictures=pictures, of_shares=True).ci95 or (0, 0)
    # Wilson's interval of 5 of 5 begins at .5655: 2 x .5655 - 1.
    assert (low, high) == (pytest.approx(0.131, abs=1e-3), 1.0)


def test_without_a_common_case_there_is_no_difference():
    assert difference({"a": 1.0}, {"b": 1.0}) == NO_DATA


def test_a_constant_control_moves_the_figure_and_its_interval():
    assert difference_to(1.0, Estimate(0.75, (0.5, 0.875), 8)) == Estimate(-0.25, (-0.5, -0.125), 8)
    assert difference_to(1.0, NO_DATA) == NO_DATA


@pytest.mark.parametrize(
    ("ci95", "higher", "margin", "expected"),
    [
        ((0.01, 0.5), True, 0.1, "better"),
        ((0.01, 0.5), False, 0.1, "worse"),
        ((-0.5, -0.01), True, 0.1, "worse"),
        ((-0.5, -0.01), False, None, "better"),
        ((-0.05, 0.09), True, 0.1, "alike"),
        ((-0.05, 0.1), True, 0.1, "unclear"),
        ((-0.05, 0.09), True, None, "unclear"),
        ((0.0, 0.0), True, 0.1, "alike"),
        (None, True, 0.1, "unclear"),
    ],
)
def test_the_standing_follows_the_interval_and_the_direction(ci95, higher, margin, expected):
    assert standing(Estimate(0.0, ci95, 5), higher_is_better=higher, margin=margin) == expected
