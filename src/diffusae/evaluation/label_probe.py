"""A linear probe of class labels: multinomial logistic regression on one vector for each picture.

After Revelio (arXiv 2411.16725). x is centred and scaled by the fitting pictures; class
probabilities are p = softmax(W x + b). The probe minimises mean_i -log p_i[y_i] + ridge / 2 |W|^2,
without a penalty on the bias. Scaling ("each": every feature by its own standard deviation;
"common": all by one number, so that features that hardly vary stay small) and ridge are those with
the smallest mean -log p on the tuning pictures; test pictures choose nothing. All of this is open
in the paper.

The problem is convex and is solved by SciPy's L-BFGS from zero: the same pictures give the same
answer, without a seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from diffusae.errors import UserError

RIDGES = (10.0, 1.0, 0.1, 0.01, 0.001)
"""Penalties to try, from the largest: each fit starts from the weights of the one before."""
SCALINGS = ("each", "common")
_MOST_ITERATIONS = 300


@dataclass(frozen=True)
class Examples:
    """One feature vector for each labelled picture, [n, d], and its class, [n], from 0.

    Raises:
        UserError: features that are not finite, or not as many as classes.
    """

    features: Float[np.ndarray, "n d"]
    classes: Int[np.ndarray, " n"]

    def __post_init__(self) -> None:
        if len(self.features) != len(self.classes):
            raise UserError(
                f"{len(self.features)} features for {len(self.classes)} labels; give one label"
                " for each picture"
            )
        if not np.isfinite(self.features).all():
            raise UserError(
                "a feature is not finite; collect these pictures again, and see the log"
            )


@dataclass(frozen=True)
class Reading:
    """The answers of a reader.

    Attributes:
        correct: for every test picture, whether its class was predicted.
        tune_accuracy: the share of correct tuning pictures; it may choose between readers.
        chosen: the settings chosen on the tuning pictures, as JSON values.
    """

    correct: Bool[np.ndarray, " n"]
    tune_accuracy: float
    chosen: dict[str, Any]


def linear_probe(
    fitting: Examples,
    tuning: Examples,
    test: Examples,
    *,
    n_classes: int,
    ridges: Sequence[float] = RIDGES,
) -> Reading:
    """Fit on one split, choose ridge and scaling on another, answer on a third.

    A class without fitting pictures is never predicted; its test pictures count as wrong.

    Raises:
        UserError: a split without pictures, a class out of range, a ridge that is not above 0.
    """
    for name, split in (("fitting", fitting), ("tuning", tuning), ("test", test)):
        if len(split.classes) == 0:
            raise UserError(
                f"a probe needs {name} pictures with a label; collect some for that split"
            )
        if split.classes.min() < 0 or split.classes.max() >= n_classes:
            raise UserError(
                f"a class of a {name} picture lies outside 0 to {n_classes - 1}; leave it out"
            )
    if not ridges or min(ridges) <= 0:
        raise UserError(f"ridges={list(ridges)} must be above 0; change evaluation.ridges")
    best = _Fit(np.inf, {}, np.zeros(0), np.zeros(0))
    for scaling in SCALINGS:
        scale = _Scaled(fitting.features, common=scaling == "common")
        x, tuned, tested = (scale(split.features) for split in (fitting, tuning, test))
        weights = np.zeros((x.shape[1] + 1, n_classes))
        for ridge in sorted(ridges, reverse=True):
            weights = _fitted(x, fitting.classes, ridge, weights)
            loss = _loss(tuned, tuning.classes, weights)
            if loss < best.loss:
                answers = (_logits(rows, weights).argmax(axis=1) for rows in (tuned, tested))
                best = _Fit(loss, {"ridge": float(ridge), "scaling": scaling}, *answers)
    correct = best.test == test.classes
    return Reading(correct, float((best.tune == tuning.classes).mean()), best.chosen)


@dataclass(frozen=True)
class _Fit:
    """One fit: its loss on the tuning pictures, its settings, and the classes it predicts."""

    loss: float
    chosen: dict[str, Any]
    tune: NDArray[Any]
    test: NDArray[Any]


class _Scaled:
    """Centred and scaled features.

    With fewer pictures than features they are given in coordinates of the space that the pictures
    span. This changes neither the penalty nor the minimum: the best W lies in that space.
    """

    def __init__(self, features: Float[np.ndarray, "n d"], *, common: bool) -> None:
        x = features.astype(np.float64)
        self._mean, deviation = x.mean(axis=0), x.std(axis=0)
        least = 1e-6 * max(deviation.max(), 1e-30)
        # A feature that does not vary here would dominate pictures where it does: left out.
        own = np.sqrt((deviation**2).mean()) if common else deviation
        self._scale = np.where(deviation > least, own, np.inf)
        self._directions: NDArray[np.float64] | None = None
        n, d = x.shape
        if d > n:
            x = (x - self._mean) / self._scale
            values, vectors = np.linalg.eigh(x @ x.T)
            kept = values > 1e-10 * max(values[-1], 1e-30)
            self._directions = x.T @ (vectors[:, kept] / np.sqrt(values[kept]))

    def __call__(self, features: Float[np.ndarray, "n d"]) -> NDArray[np.float64]:
        x = (features - self._mean) / self._scale
        return x if self._directions is None else x @ self._directions


def _fitted(
    x: NDArray[np.float64], classes: Int[np.ndarray, " n"], ridge: float, start: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Weights [d + 1, classes]; the last row is the bias."""
    from scipy.optimize import minimize  # a third of a second

    n, shape = len(x), start.shape
    wanted = np.zeros((n, shape[1]))
    wanted[np.arange(n), classes] = 1

    def objective(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        weights = flat.reshape(shape)
        log_p = _log_p(x, weights)
        penalised = weights[:-1]
        error = (np.exp(log_p) - wanted) / n
        gradient = np.vstack([x.T @ error + ridge * penalised, error.sum(axis=0)])
        loss = -(log_p * wanted).sum() / n + ridge / 2 * (penalised**2).sum()
        return float(loss), gradient.ravel()

    options = {"maxiter": _MOST_ITERATIONS, "ftol": 1e-9, "gtol": 1e-6}
    solved = minimize(objective, start.ravel(), jac=True, method="L-BFGS-B", options=options)
    return solved.x.reshape(shape)


def _log_p(x: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """The logarithm of each class' probability, [n, classes]."""
    from scipy.special import log_softmax

    return log_softmax(_logits(x, weights), axis=1)


def _logits(x: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    return x @ weights[:-1] + weights[-1]


def _loss(
    x: NDArray[np.float64], classes: Int[np.ndarray, " n"], weights: NDArray[np.float64]
) -> float:
    """Mean -log p of the true classes, in nats."""
    return float(-_log_p(x, weights)[np.arange(len(x)), classes].mean())
