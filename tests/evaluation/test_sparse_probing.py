"""Sparse probes against scikit-learn, and on planted features."""

import numpy as np
import pytest
from scipy import sparse
from sklearn.linear_model import LogisticRegression

from diffusae.evaluation.sparse_probing import (
    Features,
    Truth,
    dense_probe,
    logistic,
    ranking,
    some_rows,
    sparse_probes,
)


@pytest.mark.parametrize("ridge", [0.1, 1.0, 30.0])
def test_the_regression_is_that_of_scikit_learn(ridge):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 3)) * [1.0, 0.2, 5.0]
    y = x @ [1.5, -2.0, 0.1] + rng.logistic(size=80) > 0.8
    theirs = LogisticRegression(C=1 / ridge, tol=1e-10, max_iter=1000).fit(x, y)
    ours = logistic(x, y, ridge=ridge)
    np.testing.assert_allclose(ours[:-1], theirs.coef_[0], atol=2e-3)
    np.testing.assert_allclose(ours[-1], theirs.intercept_[0], atol=2e-3)


def test_the_weights_stay_finite_where_one_feature_tells_all_or_nothing_holds():
    x = np.array([[0.0], [0.0], [1.0], [1.0]])
    assert np.isfinite(logistic(x, x[:, 0] > 0, ridge=0.01)).all()
    assert np.isfinite(logistic(x, np.zeros(4, dtype=bool))).all()


def planted(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Value 0 is feature 3 or feature 1; value 1 is feature 4 below a threshold; 0, 2, 5: noise."""
    rng = np.random.default_rng(seed)
    codes = rng.random((n, 6)) * (rng.random((n, 6)) < 0.4)
    codes[:, 4] = rng.random(n) + 0.1
    holds = np.stack([(codes[:, 3] > 0) | (codes[:, 1] > 0), codes[:, 4] < 0.4], axis=1)
    return codes, holds


def test_features_are_ranked_by_the_difference_of_their_means():
    codes, holds = planted(400, 0)
    for features in (codes, sparse.csc_array(codes)):
        ranked = ranking(features, holds)
        assert set(ranked[:2, 0].tolist()) == {1, 3}
        assert ranked[0, 1] == 4, "a difference downwards counts too"


def test_a_difference_is_measured_in_standard_deviations():
    # Feature 0 differs by 10 of 100, feature 1 by 1 of .01.
    rng = np.random.default_rng(0)
    true = np.arange(200) % 4 == 0
    features = np.stack(
        [rng.normal(0, 100, 200) + 10 * true, rng.normal(0, 0.01, 200) + true], axis=1
    )
    assert ranking(features, true[:, None])[0, 0] == 1


def test_a_value_of_two_latents_needs_two():
    (fit, fit_holds), (tune, tune_holds), (test, test_holds) = (planted(500, s) for s in range(3))
    features = Features(*(sparse.csc_array(one) for one in (fit, tune, test)))
    answers = sparse_probes(features, Truth(fit_holds, tune_holds), (1, 2))

    def f1(of: np.ndarray, column: int) -> float:
        true = test_holds[:, column]
        return 2 * (of[:, column] & true).sum() / (of[:, column].sum() + true.sum())

    assert f1(answers[1], 0) < 0.82 and f1(answers[2], 0) > 0.95
    assert f1(answers[1], 1) > 0.95
    dense = dense_probe(Features(fit, tune, test), Truth(fit_holds, tune_holds))
    assert f1(dense, 1) > 0.9


def test_rows_are_drawn_once_each_and_all_where_there_are_few():
    assert some_rows(3, 5, seed=0).tolist() == [0, 1, 2]
    drawn = some_rows(50, 20, seed=1)
    assert len(set(drawn.tolist())) == 20 and (np.diff(drawn) > 0).all()
