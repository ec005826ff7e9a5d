"""What training minimises: the normalised reconstruction error, and AuxK, which revives dead latents."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from diffusae.sae.autoencoder import SparseAutoencoder


def total_variance(vectors: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Mean squared distance of the vectors to their mean; 0 for one vector."""
    return (vectors - vectors.mean(dim=0)).square().sum(dim=1).mean()


def normalised_mse(
    x_hat: Float[Tensor, "batch d"], x: Float[Tensor, "batch d"], variance: Float[Tensor, ""]
) -> Float[Tensor, ""]:
    """mean ||x - x_hat||^2 / variance. Range [0, inf), lower is better; 1 = no better than predicting the
    mean.

    `variance` is fixed, not the batch's own: a small last batch would otherwise count differently.
    """
    # A process may get no part of a short last batch: its error is 0.
    return F.mse_loss(x_hat, x, reduction="sum") / max(len(x), 1) / variance


def auxk_loss(
    autoencoder: SparseAutoencoder,
    x: Float[Tensor, "batch d_in"],
    error: Float[Tensor, "batch d_in"],
    latents: Int[Tensor, " dead"],
    variance: Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """How badly the dead `latents` reconstruct what the live ones leave: mean ||e - e_hat||^2 / variance.

    Emergence, appendix: AuxK, coefficient 1/32, k_aux = 256. `x` and `error` = x - x_hat are in scaled units.
    The error and the bias are detached, so that this loss moves nothing but the dead latents. The k_aux
    latents "inactive the longest" are chosen once a batch, not once a row as the original of AuxK does: the
    same while no more than k_aux are dead, and of a cost that does not depend on how many are.
    """
    encoder, decoder = autoencoder.W_enc[latents], autoencoder.W_dec[latents]
    activations = ((x - autoencoder.b.detach()) @ encoder.T).relu()
    return normalised_mse(activations @ decoder, error.detach(), variance)


def longest_inactive(
    vectors_since_fired: Int[Tensor, " d_sae"], *, dead_after: int, k_aux: int
) -> Int[Tensor, " dead"]:
    """Up to `k_aux` latents that have not fired for `dead_after` vectors or more, the longest inactive."""
    dead = (vectors_since_fired >= dead_after).nonzero().squeeze(1)
    if len(dead) <= k_aux:
        return dead
    return dead[vectors_since_fired[dead].argsort(descending=True, stable=True)[:k_aux]]
