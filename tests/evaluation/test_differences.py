"""The difference of two figures that were measured apart."""

import numpy as np
import pytest

from diffusae.evaluation.differences import difference
from diffusae.evaluation.result import NO_DATA, Estimate


def test_a_difference_has_the_hand_worked_interval_of_the_docstring():
    found = difference(Estimate(0.6, (0.5, 0.7), 40), Estimate(0.2, (0.1, 0.4), 30))
    assert found.value == pytest.approx(0.4)
    assert found.ci95 == pytest.approx((0.4 - np.sqrt(0.05), 0.4 + np.sqrt(0.02)))
    assert found.n == 30


def test_the_interval_of_two_means_is_that_of_their_difference_by_resampling():
    generator = np.random.default_rng(0)
    first, second = generator.normal(1, 2, 400), generator.normal(0, 1, 300)

    def means(values):
        drawn = generator.choice(values, (4000, len(values))).mean(axis=1)
        return Estimate(
            values.mean(), tuple(np.quantile(drawn, (0.025, 0.975))), len(values)
        ), drawn

    (one, draws), (other, other_draws) = means(first), means(second)
    wanted = np.quantile(draws - other_draws, (0.025, 0.975))
    assert difference(one, other).ci95 == pytest.approx(tuple(wanted), abs=0.02)


def test_without_an_interval_there_is_a_difference_and_no_interval():
    assert difference(Estimate(3.0, None, 5), Estimate(1.0, (0.0, 2.0), 5)) == Estimate(
        2.0, None, 5
    )


def test_without_data_there_is_no_difference():
    assert difference(NO_DATA, Estimate(1.0, None, 5)) == NO_DATA
