"""What training minimises: the normalised reconstruction error, and AuxK, which revives dead
latents.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from diffusae.sae.autoencoder import SparseAutoencoder


def total_variance(vectors: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Mean squared distance of the vectors to their mean; 0 for one vector."""
    return (vectors - vectors.mean(dim=0)).square().sum(dim=1).mean()


def normalised_error(
    errors: Float[Tensor, "batch *prefixes d"], variance: Float[Tensor, ""]
) -> Float[Tensor, "*prefixes"]:
    """mean ||error||^2 / variance over the batch. Range [0, inf), lower is better; 1 = no better
    than predicting the mean.

    `variance` is fixed, not the batch's own: a small last batch would otherwise count differently.
    """
    # A process may get no part of a short last batch: its error is 0.
    squared: Tensor = _SquaredNorms.apply(errors)  # type: ignore[assignment]
    return squared / max(len(errors), 1) / variance


class _SquaredNorms(torch.autograd.Function):
    """Sums of squares over the first and the last dimension, without a tensor of squares in
    between.
    """

    @staticmethod
    def forward(ctx: Any, errors: Tensor) -> Tensor:
        ctx.save_for_backward(errors)
        return torch.linalg.vector_norm(errors, dim=-1).square().sum(dim=0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (errors,) = ctx.saved_tensors
        return errors * (2 * gradients[0].unsqueeze(-1))


def auxk_loss(
    autoencoder: SparseAutoencoder,
    centred: Float[Tensor, "batch d_in"],
    errors: Float[Tensor, "batch d_in"],
    latents: Int[Tensor, " dead"],
    variance: Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """How badly the dead `latents` reconstruct what the live ones leave: mean ||e - e_hat||^2 /
    variance.

    Emergence, appendix: AuxK, coefficient 1/32, k_aux = 256. `centred` = x - b and `errors` = x_hat
    - x = -e are in scaled units. Both are detached, so that this loss moves nothing but the dead
    latents. The k_aux latents "inactive the longest" are chosen once a batch; the original of AuxK
    chooses once a row. This is the same while no more than k_aux latents are dead, and its cost
    does not depend on how many are dead.
    """
    # Gradients by row: dense ones would be as large as the weights, and almost all zeros.
    encoder, decoder = (
        F.embedding(latents, W, sparse=True) for W in (autoencoder.W_enc, autoencoder.W_dec)
    )
    activations = torch.addmm(autoencoder.b_enc[latents], centred.detach(), encoder.T).relu()
    return normalised_error(torch.addmm(errors.detach(), activations, decoder), variance)


def longest_inactive(
    vectors_since_fired: Int[Tensor, " d_sae"], *, dead_after: int, k_aux: int
) -> Int[Tensor, " dead"]:
    """Up to `k_aux` latents that have not fired for `dead_after` vectors or more, the longest
    inactive.
    """
    dead = (vectors_since_fired >= dead_after).nonzero().squeeze(1)
    if len(dead) <= k_aux:
        return dead
    return dead[vectors_since_fired[dead].argsort(descending=True, stable=True)[:k_aux]]
