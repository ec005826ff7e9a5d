"""Reconstruction of held-out updates by an SAE (Emergence, Table 1), with intervals and baselines.

Definitions as in `sae.metrics`: with E = sum ||x - x_hat||^2 and the mean m of all vectors,

- fvu = E / sum ||x - m||^2, range [0, inf), lower is better; explained_variance = 1 - fvu, higher
  is better;
- scaled_mse = E / sum ||x||^2, range [0, inf), lower is better;
- l0: mean active latents of a vector; dead_fraction: share of latents that are never active in the
  split.

Empty cases: no pictures, or constant vectors (for scaled_mse: all zero), are no data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from diffusae.errors import UserError
from diffusae.evaluation.proportion import share
from diffusae.evaluation.result import (
    NO_DATA,
    Estimate,
    Resampling,
    Result,
    bootstrap_mean,
    bootstrap_weights,
    percentile_interval,
)

VERSION = 1
# metric name -> higher is better
ERROR_METRICS = {"fvu": False, "explained_variance": True, "scaled_mse": False}


@dataclass(frozen=True)
class Pca:
    """A linear code with as many numbers for a vector as an SAE has active latents."""

    mean: Float[Tensor, " d"]
    components: Float[Tensor, "k d"]

    def reconstruct(self, vectors: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """The projection on the components."""
        return self.mean + (vectors - self.mean) @ self.components.T @ self.components


def fit_pca(vectors: Float[Tensor, "n d"], k: int) -> Pca:
    """The first `k` principal components of the vectors; `UserError` unless 1 <= k <= min(n, d)."""
    if not 1 <= k <= min(vectors.shape):
        raise UserError(
            f"k={k} components need 1 <= k <= {min(vectors.shape)}; lower k or give more vectors"
        )
    centred = vectors.double() - vectors.double().mean(dim=0)
    # Eigenvectors of the covariance, not of the vectors: n is large, d is small.
    _, eigenvectors = torch.linalg.eigh(centred.T @ centred)
    return Pca(vectors.mean(dim=0), eigenvectors[:, -k:].flip(1).T.to(vectors.dtype))


@dataclass(frozen=True)
class Linear:
    """A linear map, the baseline of a transcoder."""

    weights: Float[Tensor, "d_in d_out"]
    bias: Float[Tensor, " d_out"]

    def __call__(self, vectors: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_out"]:
        """vectors @ weights + bias"""
        return vectors @ self.weights + self.bias


def fit_linear(vectors: Float[Tensor, "n d_in"], targets: Float[Tensor, "n d_out"]) -> Linear:
    """The linear map with least squared error; of several, the one with the shortest weights."""
    x, y = vectors.double(), targets.double()
    means = x.mean(dim=0), y.mean(dim=0)
    x, y = x - means[0], y - means[1]
    # By the normal equations, since n is large and d is small.
    weights = torch.linalg.pinv(x.T @ x, hermitian=True, rtol=1e-10) @ (x.T @ y)
    bias = means[1] - means[0] @ weights
    return Linear(weights.to(targets.dtype), bias.to(targets.dtype))


class PictureSums:
    """The sums of each picture from which the error metrics follow; the bootstrap draws pictures.

    Call `add` once for each picture, with its vectors and every reconstruction by name.
    """

    def __init__(self) -> None:
        self._counts: list[int] = []
        self._energy: list[float] = []
        self._totals: list[NDArray[np.float64]] = []
        self._errors: dict[str, list[float]] = {}

    @property
    def names(self) -> set[str]:
        """The names of the reconstructions."""
        return set(self._errors)

    def add(
        self, x: Float[Tensor, "P d"], reconstructions: Mapping[str, Float[Tensor, "P d"]]
    ) -> None:
        """Add one picture. The names must be those of the first call."""
        if self._counts and set(reconstructions) != set(self._errors):
            raise UserError(
                f"expected reconstructions {sorted(self._errors)}, got {sorted(reconstructions)}"
            )
        x = x.double()
        self._counts.append(len(x))
        self._energy.append(float(x.square().sum()))
        self._totals.append(x.sum(dim=0).cpu().numpy())
        for name, x_hat in reconstructions.items():
            self._errors.setdefault(name, []).append(float((x - x_hat.double()).square().sum()))

    def estimates(self, name: str, **resampling: Unpack[Resampling]) -> dict[str, Estimate]:
        """The three error metrics of one reconstruction; n counts vectors, `clusters` pictures.

        Calls with the same seed draw the same pictures.
        """
        n_pictures = len(self._counts)
        if n_pictures == 0:
            return dict.fromkeys(ERROR_METRICS, NO_DATA)
        point = self._metrics(name, np.ones((1, n_pictures)))
        spread: dict[str, NDArray[np.float64]] = {}
        if n_pictures > 1:
            weights = bootstrap_weights(n_pictures, **resampling)
            spread = self._metrics(name, weights)
        n = sum(self._counts)
        estimates = {}
        for metric, values in point.items():
            if not np.isfinite(values[0]):
                estimates[metric] = NO_DATA
                continue
            # A resample of pictures that do not vary has no value.
            resampled = spread.get(metric, np.zeros(0))
            resampled = resampled[np.isfinite(resampled)]
            interval = percentile_interval(resampled) if len(resampled) else None
            clusters = n_pictures if n_pictures < n else None
            estimate = Estimate(float(values[0]), interval, n, clusters)
            estimates[metric] = estimate.drawn(spread.get(metric))
        return estimates

    def _metrics(self, name: str, weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        error, energy, count = (
            weights @ np.asarray(sums, dtype=np.float64)
            for sums in (self._errors[name], self._energy, self._counts)
        )
        total = weights @ np.stack(self._totals)
        variance = energy - np.square(total).sum(axis=1) / count
        # A difference within the rounding of the energy counts as no variance.
        variance = np.where(variance > 1e-12 * energy, variance, np.nan)
        fvu = error / variance
        return {
            "fvu": fvu,
            "explained_variance": 1 - fvu,
            "scaled_mse": error / np.where(energy > 0, energy, np.nan),
        }


class CodeSums:
    """L0 and dead latents, added up picture by picture."""

    def __init__(self, d_sae: int) -> None:
        self._d_sae = d_sae
        self._l0: list[float] = []
        self._fired = torch.zeros(d_sae, dtype=torch.bool)

    def add(self, values: Float[Tensor, "P k"], indices: Int[Tensor, "P k"]) -> None:
        """Add one picture's codes."""
        active = values > 0
        self._l0.append(float(active.sum(dim=1).double().mean()))
        self._fired[indices[active].long().cpu()] = True

    def l0(self, **resampling: Unpack[Resampling]) -> Estimate:
        """Mean active latents of a vector (pictures weigh alike); n counts pictures."""
        return bootstrap_mean(self._l0, **resampling)

    def dead_fraction(self) -> Estimate:
        """Share of latents that are never active; n counts latents.

        The interval is over latents: a resample of pictures could only add dead ones.
        """
        if not self._l0:
            return NO_DATA
        return share((~self._fired).tolist())


def reconstruction_results(
    sums: PictureSums,
    codes: Mapping[str, CodeSums],
    *,
    cell: Mapping[str, Any],
    sae: str = "sae",
    **resampling: Unpack[Resampling],
) -> list[Result]:
    """The five rows of one cell: `sae` names its own entry in `sums` and `codes`.

    All other entries are baselines. Good ones are an SAE of the same size with random directions,
    and `fit_pca` with k components, or `fit_linear` where the target is another vector. "mean"
    needs no reconstruction: the split's mean has fvu 1 and explained variance 0 by definition.
    """
    names = [sae, *sorted(sums.names - {sae})]
    estimates = {name: sums.estimates(name, **resampling) for name in names}
    mean = {"fvu": 1.0, "explained_variance": 0.0}
    rows = []
    for metric, higher in ERROR_METRICS.items():
        beside = {name: of_name[metric] for name, of_name in estimates.items()}
        own = beside.pop(sae)
        if metric in mean and own.n > 0:
            beside["mean"] = Estimate.known(mean[metric], n=own.n)
        rows.append(Result(metric, own, higher, "ratio", dict(cell), beside, version=VERSION))
    l0 = {name: sums.l0(**resampling) for name, sums in sorted(codes.items())}
    dead = {name: sums.dead_fraction() for name, sums in sorted(codes.items())}
    for metric, unit, beside in (
        ("l0", "latents per vector", l0),
        ("dead_fraction", "share", dead),
    ):
        own = beside.pop(sae)
        rows.append(Result(metric, own, False, unit, dict(cell), beside, version=VERSION))
    return rows
