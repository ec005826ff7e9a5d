"""Streaming metrics of reconstruction and sparsity, exact over a whole set. Before any data they are NaN."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric

from diffusae.sae.sparsity import Codes


class Reconstruction(Metric):
    """FVU, explained variance and scaled MSE of one set of vectors (Emergence, Table 1), exact over all
    batches.

    With E = sum ||x - x_hat||^2 and the vectors' mean m over the whole set:

    - `fvu` = E / sum ||x - m||^2, range [0, inf), lower is better; 1 = predicting the mean;
    - `explained_variance` = 1 - fvu, range (-inf, 1], higher is better (the paper prints per cent);
    - `scaled_mse` = E / sum ||x||^2, range [0, inf), lower is better; 1 = predicting zero.

    The paper does not write the formulas out. Its two columns add up to less than 1, and scaled MSE / (1 -
    explained variance) is the same for k = 10 and 20 of a cell, which these definitions give and per-entry
    averages do not. Constant vectors have no variance to explain: `fvu` and `explained_variance` are then
    NaN.
    """

    full_state_update = False
    n: Tensor
    error: Tensor
    energy: Tensor
    total: Tensor

    def __init__(self, d_in: int) -> None:
        super().__init__()
        # Double precision: the variance is a difference of large sums.
        for name, shape in (("n", ()), ("error", ()), ("energy", ()), ("total", (d_in,))):
            self.add_state(name, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, x_hat: Float[Tensor, "batch d_in"], x: Float[Tensor, "batch d_in"]) -> None:
        x = x.double()
        self.n += len(x)
        self.error += (x - x_hat.double()).square().sum()
        self.energy += x.square().sum()
        self.total += x.sum(dim=0)

    def compute(self) -> dict[str, Tensor]:
        variance = self.energy - self.total.square().sum() / self.n
        # A difference within rounding of the energy is no variance.
        variance = torch.where(variance > 1e-12 * self.energy, variance, torch.full_like(variance, torch.nan))
        fvu = self.error / variance
        return {"fvu": fvu, "explained_variance": 1 - fvu, "scaled_mse": self.error / self.energy}


class L0(Metric):
    """Mean number of active latents a vector. Range [0, k]."""

    full_state_update = False
    active: Tensor
    n: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("active", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("n", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, codes: Codes) -> None:
        self.active += (codes.values > 0).sum()
        self.n += codes.values.shape[:-1].numel()

    def compute(self) -> Float[Tensor, ""]:
        return self.active / self.n


class FiringFrequency(Metric):
    """The share of vectors on which each latent is active: [d_sae], range [0, 1]."""

    full_state_update = False
    fired: Tensor
    n: Tensor

    def __init__(self, d_sae: int) -> None:
        super().__init__()
        self.d_sae = d_sae
        self.add_state("fired", torch.zeros(d_sae, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("n", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, codes: Codes) -> None:
        self.fired += torch.bincount(codes.indices[codes.values > 0], minlength=self.d_sae)
        self.n += codes.values.shape[:-1].numel()

    def compute(self) -> Float[Tensor, " d_sae"]:
        return self.fired / self.n


class DeadFraction(FiringFrequency):
    """The share of latents that no vector of the set makes active. Range [0, 1], lower is better."""

    def compute(self) -> Float[Tensor, ""]:
        frequency = super().compute()
        return torch.where(self.n > 0, (frequency == 0).double().mean(), frequency.sum())
