"""The kernel distance: by hand, by a slow reference, and where it must be 0."""

import numpy as np
import pytest

from diffusae.errors import UserError
from diffusae.evaluation.kernel_distance import kernel_distance, standardised
from diffusae.evaluation.result import NO_DATA


def test_two_pictures_by_hand():
    # Standardised by the first set (mean 0, deviation 1): before -1, 1; after 1, 3. k = (xy + 1)^3.
    # Before: k(-1, 1) = 0. After: k(1, 3) = 64. Across, of different pictures: k(-1, 3) = -8 and
    # k(1, 1) = 8: mean 0.
    distance = kernel_distance(np.array([[-1.0], [1.0]]), np.array([[1.0], [3.0]]), n_resamples=10)
    assert distance.value == pytest.approx(0 + 64 - 2 * 0)
    assert distance.n == 2


def test_the_distance_equals_a_slow_loop():
    rng = np.random.default_rng(0)
    before, after = rng.normal(size=(7, 5)), rng.normal(size=(7, 5)) + 0.5
    x, y = standardised(before, after)

    def k(a, b):
        return (a @ b / 5 + 1) ** 3

    pairs = [(i, j) for i in range(7) for j in range(7) if i != j]
    wanted = sum(k(x[i], x[j]) + k(y[i], y[j]) - 2 * k(x[i], y[j]) for i, j in pairs) / len(pairs)
    assert kernel_distance(before, after, n_resamples=10).value == pytest.approx(wanted)


def test_a_set_has_distance_0_from_itself_and_draws_of_one_distribution_are_near_it():
    rng = np.random.default_rng(1)
    one, other = rng.normal(size=(2, 60, 8))
    assert kernel_distance(one, one, n_resamples=50).value == pytest.approx(0.0)
    near = kernel_distance(one, other, n_resamples=200)
    assert near.ci95 is not None
    assert near.ci95[0] < 0.1
    far = kernel_distance(one, other + 2, n_resamples=200)
    assert near.value is not None
    assert far.ci95 is not None
    assert far.ci95[0] > near.ci95[1]


def test_a_feature_that_never_varies_is_left_out():
    rng = np.random.default_rng(2)
    varying = rng.normal(size=(6, 3))
    still = np.concatenate([varying, np.full((6, 1), 7.0)], axis=1)
    expected = kernel_distance(varying, varying[::-1], n_resamples=5).value
    assert kernel_distance(still, still[::-1], n_resamples=5).value == pytest.approx(expected)


def test_one_picture_is_no_data_and_other_shapes_are_refused():
    assert kernel_distance(np.zeros((1, 3)), np.zeros((1, 3))) == NO_DATA
    with pytest.raises(UserError, match="compare the same prompts"):
        kernel_distance(np.zeros((2, 3)), np.zeros((3, 3)))
