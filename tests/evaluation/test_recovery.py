"""The best latent of a value against all latents and thresholds, and its F1 by hand."""

import numpy as np
import pytest
from scipy import sparse
from sklearn.metrics import f1_score

from diffusae.evaluation.proportion import Z95
from diffusae.evaluation.recovery import (
    PictureCounts,
    best_latents,
    mean_f1,
    pooled,
    says,
    sparse_codes,
)


def slow_best(codes: np.ndarray, true: np.ndarray) -> float:
    """Every code of every latent as its threshold."""
    tried = [
        f1_score(true, codes[:, latent] >= threshold, zero_division=0)  # pyright: ignore[reportArgumentType] - its stub is wrong
        for latent in range(codes.shape[1])
        for threshold in codes[:, latent][codes[:, latent] != 0]
    ]
    return max(tried)


def test_the_example_of_the_docstring():
    codes = sparse.csc_array(np.array([[0.9], [0.5], [0.5]]))
    best = best_latents(codes, np.array([[True], [False], [True]]))
    assert (best.f1[0], best.thresholds[0]) == (0.8, 0.5)


@pytest.mark.parametrize("seed", range(4))
def test_no_latent_and_no_threshold_is_better_than_the_chosen_ones(seed):
    rng = np.random.default_rng(seed)
    # Few different codes, so that many are equal.
    codes = rng.integers(0, 4, (30, 5)) * (rng.random((30, 5)) < 0.5) / 2
    holds = rng.random((30, 3)) < np.array([0.1, 0.4, 0.8])
    best = best_latents(sparse.csc_array(codes), holds)
    answers = says(sparse.csc_array(codes), best)
    for column in range(3):
        assert best.f1[column] == pytest.approx(slow_best(codes, holds[:, column]))
        assert f1_score(holds[:, column], answers[:, column]) == pytest.approx(best.f1[column])


def test_a_value_that_no_row_has_is_never_said():
    codes = sparse.csc_array(np.array([[0.5], [0.2]]))
    best = best_latents(codes, np.zeros((2, 1), dtype=bool))
    assert best.f1[0] == 0
    assert not says(codes, best).any()


def test_codes_are_rows_of_positions_and_their_means_rows_of_pictures():
    values = np.array([[[3.0, 0.0], [1.0, 2.0]], [[0.0, 4.0], [0.0, 0.0]]])
    indices = np.array([[[2, 0], [0, 2]], [[1, 1], [0, 0]]])  # the zeros are padding
    codes = sparse_codes(values, indices, 3)
    assert codes.toarray().tolist() == [[0, 0, 3], [1, 0, 2], [0, 4, 0], [0, 0, 0]]
    assert pooled(codes, 2).toarray().tolist() == [[0.5, 0, 2.5], [0, 2, 0]]


def test_f1_adds_rows_of_pictures_and_its_interval_draws_pictures():
    holds = np.array([[[1], [1], [0]], [[0], [1], [0]]], dtype=bool)
    answers = np.array([[1], [0], [1], [0], [1], [0]], dtype=bool)
    counts = PictureCounts.of(answers, holds)
    assert counts.right.tolist() == [[1], [1]] and counts.said.tolist() == [[2], [1]]
    figure = mean_f1(counts, [0], n_resamples=200, seed=0)
    assert figure.value == pytest.approx(2 * 2 / (3 + 3)) and figure.n == 2
    # Draws are the first picture twice (1/2), the second twice (1), or both.
    assert figure.ci95 == pytest.approx((0.5, 1.0))


def test_the_mean_leaves_out_values_that_nobody_shows_or_says():
    holds = np.zeros((3, 2, 2), dtype=bool)
    holds[:, 0, 0] = True
    counts = PictureCounts.of(holds.reshape(6, 2), holds)
    assert np.isnan(counts.f1()[1])
    figure = mean_f1(counts, [0, 1], n_resamples=50)
    assert figure.value == 1
    assert figure.ci95 == pytest.approx((3 / (3 + Z95**2), 1.0)), "Wilson: never without width"
    assert mean_f1(counts, [1]).value is None and mean_f1(counts, []).n == 0
