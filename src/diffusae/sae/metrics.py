"""Streaming metrics of reconstruction and sparsity, exact over a whole set. Before any data they
are NaN.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric

from diffusae.sae.across_processes import Shard, greatest, total
from diffusae.sae.sparsity import Codes

DENSE = 0.1
"""A latent that is active on more than this share of vectors is dense."""
DUPLICATE = 0.9
"""Two latents whose directions have a higher cosine are duplicates."""
_FREQUENCIES = {"1e-4": 1e-4, "1e-3": 1e-3, "1e-2": 1e-2}
_SAMPLED_LATENTS = 1024


class Reconstruction(Metric):
    """FVU, explained variance and scaled MSE of one set of vectors (Emergence, Table 1), exact over
    all batches.

    With E = sum ||x - x_hat||^2 and the vectors' mean m over the whole set:

    - `fvu` = E / sum ||x - m||^2, range [0, inf), lower is better; 1 = predicting the mean;
    - `explained_variance` = 1 - fvu, range (-inf, 1], higher is better (the paper prints per cent);
    - `scaled_mse` = E / sum ||x||^2, range [0, inf), lower is better; 1 = predicting zero;
    - `cosine` = mean cosine of x and x_hat, range [-1, 1], higher is better; that of a zero vector
      is 0.

    The paper does not write the formulas out. Its two columns add up to less than 1, and scaled MSE
    / (1 - explained variance) is the same for k = 10 and 20 of a cell, which these definitions give
    and per-entry averages do not. Constant vectors have no variance to explain: `fvu` and
    `explained_variance` are then NaN.
    """

    full_state_update = False
    n: Tensor
    error: Tensor
    energy: Tensor
    cosines: Tensor
    total: Tensor

    def __init__(self, d_in: int) -> None:
        super().__init__()
        # Double precision: the variance is a difference of large sums.
        shapes = {"n": (), "error": (), "energy": (), "cosines": (), "total": (d_in,)}
        for name, shape in shapes.items():
            self.add_state(name, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, x_hat: Float[Tensor, "batch d_in"], x: Float[Tensor, "batch d_in"]) -> None:
        x = x.double()
        self.n += len(x)
        x_hat = x_hat.double()
        self.error += (x - x_hat).square().sum()
        self.cosines += F.cosine_similarity(x, x_hat, dim=1, eps=1e-30).sum()
        self.energy += x.square().sum()
        self.total += x.sum(dim=0)

    def compute(self) -> dict[str, Tensor]:
        variance = self.energy - self.total.square().sum() / self.n
        # A difference within rounding of the energy is no variance.
        variance = torch.where(
            variance > 1e-12 * self.energy, variance, torch.full_like(variance, torch.nan)
        )
        fvu = self.error / variance
        return {
            "fvu": fvu,
            "explained_variance": 1 - fvu,
            "scaled_mse": self.error / self.energy,
            "cosine": self.cosines / self.n,
        }


class L0(Metric):
    """Mean number of active latents a vector. Range [0, k] where a row has at most k, else [0,
    d_sae].
    """

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


class FiringHistogram(FiringFrequency):
    """The shares of latents by how often they are active; they add up to 1.

    `dead_fraction`: on no vector of the set (lower is better); `firing_below_1e-4`, `firing_1e-4`,
    `firing_1e-3`, `firing_1e-2`: on that share of vectors up to the next; `dense_fraction`: on more
    than `DENSE` of them.
    """

    def compute(self) -> dict[str, Tensor]:  # type: ignore[override]
        frequency = super().compute()
        bounds = torch.tensor(
            list(_FREQUENCIES.values()), dtype=frequency.dtype, device=frequency.device
        )
        # 0: never; 1 + j: at least the j-th bound; the last: dense.
        place = 1 + torch.bucketize(frequency, bounds, right=True)
        place[frequency > DENSE] = len(_FREQUENCIES) + 2
        place[frequency == 0] = 0
        shares = torch.bincount(place, minlength=len(_FREQUENCIES) + 3).double() / self.d_sae
        if not self.n > 0:
            shares = torch.full_like(shares, torch.nan)
        names = [
            "dead_fraction",
            "firing_below_1e-4",
            *(f"firing_{name}" for name in _FREQUENCIES),
            "dense_fraction",
        ]
        return dict(zip(names, shares, strict=True))


@torch.no_grad()
def decoder_similarity(
    directions: Float[Tensor, "n d_in"], shard: Shard | None = None
) -> dict[str, Tensor]:
    """How close latents come to one another: `decoder_similarity`, the mean over latents of the
    highest cosine with another one's direction, and `decoder_duplicates`, the share for which it
    exceeds `DUPLICATE`. Range [-1, 1] and [0, 1], lower is better.

    Of more than 1,024 latents, so many at equal distances are compared with all.

    Args:
        shard: which latents `directions` are of, where other processes have the others, and call
            this as well. None: there are no others.
    """
    first, _, d_sae = shard or Shard(0, len(directions), len(directions))
    if d_sae < 2:
        return {
            "decoder_similarity": directions.new_zeros(()),
            "decoder_duplicates": directions.new_zeros(()),
        }
    sampled = torch.arange(0, d_sae, -(-d_sae // _SAMPLED_LATENTS), device=directions.device)
    unit = F.normalize(directions, dim=1)
    here = ((sampled >= first) & (sampled < first + len(unit))).nonzero().squeeze(1)
    mine = sampled[here] - first
    compared = unit.new_zeros(len(sampled), unit.shape[1])
    compared[here] = unit[mine]
    elsewhere = len(unit) < d_sae
    if elsewhere:
        total(compared)
    cosines = compared @ unit.T
    cosines[here, mine] = -torch.inf
    nearest = cosines.amax(dim=1)
    if elsewhere:
        greatest(nearest)
    return {
        "decoder_similarity": nearest.mean(),
        "decoder_duplicates": (nearest > DUPLICATE).float().mean(),
    }
