"""k-sparse probing: how many latents together tell a value, beside neurons and a dense probe.

After "Finding Neurons in a Haystack" (arXiv 2305.01610): the k features whose means differ most
between rows where the value holds and all others enter a logistic regression. A difference is
measured in standard deviations of the feature (open there: some take it as it is). The probe is
fitted on one split, its threshold has the highest F1 on a second one, and a third gives the figure.

The regression minimises sum_i log(1 + exp(-y_i w.x_i)) + ridge / 2 |w|^2 without a penalty on the
bias, by Newton's method: scikit-learn's `LogisticRegression(C=1 / ridge)` is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from scipy import sparse
from scipy.special import expit

from diffusae.evaluation.recovery import best_latents

_STEPS = 30
_SMALL = 1e-8


@dataclass(frozen=True)
class Features:
    """Features of the rows of three splits: a sparse matrix of codes, or a dense one of updates."""

    fitting: Any
    tuning: Any
    test: Any


@dataclass(frozen=True)
class Truth:
    """What holds at these rows, [rows, columns]."""

    fitting: Bool[np.ndarray, "a columns"]
    tuning: Bool[np.ndarray, "b columns"]


def logistic(
    x: Float[np.ndarray, "n d"], y: Bool[np.ndarray, " n"], *, ridge: float = 1.0
) -> NDArray[np.float64]:
    """Weights [d + 1], the bias last. Newton's method with halved steps; the problem is convex."""
    x = np.column_stack([x.astype(np.float64), np.ones(len(x))])
    single, penalty = x.astype(np.float32), np.full(x.shape[1], float(ridge))
    penalty[-1] = _SMALL  # keeps the bias of a value that always holds finite

    def loss(weights: NDArray[np.float64]) -> float:
        logits = x @ weights
        return float(np.logaddexp(0, np.where(y, -logits, logits)).sum() + weights**2 @ penalty / 2)

    weights, now = np.zeros(x.shape[1]), len(x) * np.log(2)
    for _ in range(_STEPS):
        p = expit(x @ weights)
        gradient = x.T @ (p - y) + penalty * weights
        # Single precision is enough here: it decides the way to the minimum, not the minimum.
        hessian = (single * (p * (1 - p)).astype(np.float32)[:, None]).T @ single
        hessian = hessian.astype(np.float64) + np.diag(penalty)
        step = np.linalg.solve(hessian, gradient)
        size = 1.0
        while (then := loss(weights - size * step)) > now and size > 1e-4:
            size /= 2
        weights = weights - size * step
        if now - then < 1e-7 * now:
            break
        now = then
    return weights


def ranking(features: Any, holds: Bool[np.ndarray, "rows columns"]) -> Int[np.ndarray, "d columns"]:
    """For each column the features by falling difference of means, in standard deviations."""
    n, held = len(holds), holds.astype(np.float32)
    sums, squares = features.T @ held, (features * features).sum(axis=0)
    total = np.asarray(features.sum(axis=0), np.float64)
    mean = total / n
    deviation = np.sqrt(np.maximum(np.asarray(squares, np.float64) / n - mean**2, 0))
    true = held.sum(axis=0, dtype=np.float64)
    among = sums / np.maximum(true, 1)
    others = (total[:, None] - sums) / np.maximum(n - true, 1)
    scale = np.where(deviation > 0, deviation, np.inf)[:, None]
    return np.argsort(-np.abs((among - others) / scale), axis=0, kind="stable")


def sparse_probes(
    features: Features, truth: Truth, ks: Sequence[int], *, ridge: float = 1.0
) -> dict[int, Bool[np.ndarray, "rows columns"]]:
    """For each k the answers at the test rows, of the k features that tell a column best."""
    ranked = ranking(features.fitting, truth.fitting)
    answers = {k: np.zeros((features.test.shape[0], ranked.shape[1]), dtype=bool) for k in ks}
    for column in range(ranked.shape[1]):
        chosen = ranked[: max(ks), column]
        own = Features(*(_dense(split[:, chosen]) for split in vars(features).values()))
        for k in ks:
            answers[k][:, column] = _answers(own, truth, column, k, ridge)
    return answers


def dense_probe(
    features: Features, truth: Truth, *, ridge: float = 1.0
) -> Bool[np.ndarray, "rows columns"]:
    """The answers at the test rows of a probe that reads all features."""
    own = Features(*(_dense(split) for split in vars(features).values()))
    columns = range(truth.fitting.shape[1])
    answers = [_answers(own, truth, column, own.fitting.shape[1], ridge) for column in columns]
    return np.stack(answers, axis=1) if answers else np.zeros((len(own.test), 0), dtype=bool)


def _answers(features: Features, truth: Truth, column: int, k: int, ridge: float) -> Any:
    """One probe on the first k features."""
    x = features.fitting[:, :k]
    mean, deviation = x.mean(axis=0), x.std(axis=0)
    scale = np.where(deviation > _SMALL, deviation, np.inf)
    weights = logistic((x - mean) / scale, truth.fitting[:, column], ridge=ridge)
    tuned, tested = (
        ((split[:, :k] - mean) / scale) @ weights[:-1] for split in (features.tuning, features.test)
    )
    # Above 0, so that no score is mistaken for a silent latent.
    low = min(tuned.min(initial=0), tested.min(initial=0)) - 1
    scores = sparse.csc_array((tuned - low)[:, None])
    best = best_latents(scores, truth.tuning[:, [column]])
    return tested - low >= best.thresholds[0]


def _dense(matrix: Any) -> NDArray[np.float64]:
    return np.asarray(matrix.toarray() if sparse.issparse(matrix) else matrix, np.float64)


def some_rows(n: int, most: int, seed: int) -> Int[np.ndarray, " m"]:
    """All of n rows, or `most` of them drawn at random, in order."""
    if n <= most:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, most, replace=False))
