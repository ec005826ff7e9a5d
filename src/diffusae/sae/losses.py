"""What training minimises beside the sparsity's penalty: the normalised reconstruction error, and
AuxK, which revives dead latents.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.dense_ops import product


def total_variance(vectors: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Mean squared distance of the vectors to their mean; 0 for one vector."""
    return (vectors - vectors.mean(dim=0)).square().sum(dim=1).mean()


def normalised(
    squared_errors: Float[Tensor, "*prefixes"], vectors: int, variance: Float[Tensor, ""]
) -> Float[Tensor, "*prefixes"]:
    """Sums of squared errors as mean ||error||^2 / variance over so many vectors. Range [0, inf),
    lower is better; 1 = no better than predicting the mean.

    `variance` is fixed, not the batch's own: a small last batch would otherwise count differently.
    """
    # A process may get no part of a short last batch: its error is 0.
    return squared_errors / max(vectors, 1) / variance


class Dead(NamedTuple):
    """Latents to revive."""

    latents: Int[Tensor, " n"]
    are_dead: Bool[Tensor, " n"] | None = None
    """Which of them are dead; None: all."""


def longest_inactive(
    vectors_since_fired: Int[Tensor, " d_sae"], *, dead_after: int, k_aux: int
) -> Dead:
    """Up to `k_aux` latents that have not fired for `dead_after` vectors or more, the longest
    inactive.
    """
    dead = (vectors_since_fired >= dead_after).nonzero().squeeze(1)
    if len(dead) <= k_aux:
        return Dead(dead)
    return Dead(dead[vectors_since_fired[dead].argsort(descending=True, stable=True)[:k_aux]])


def longest_inactive_of_k(
    vectors_since_fired: Int[Tensor, " d_sae"], *, dead_after: int, k_aux: int
) -> Dead:
    """`longest_inactive` without a wait for the device: always as many latents, with a mask.

    >>> longest_inactive_of_k(torch.tensor([0, 99, 100, 5, 250]), dead_after=100, k_aux=3)
    Dead(latents=tensor([4, 2, 1]), are_dead=tensor([ True,  True, False]))
    """
    since, latents = vectors_since_fired.sort(descending=True, stable=True)
    return Dead(latents[:k_aux], since[:k_aux] >= dead_after)


class AuxK(NamedTuple):
    """The loss that revives dead latents, and its gradients by the rows of these latents."""

    loss: Float[Tensor, ""]
    latents: Int[Tensor, " n"]
    of_W_enc: Float[Tensor, "n d_in"]
    of_b_enc: Float[Tensor, " n"]
    of_W_dec: Float[Tensor, "n d_in"]

    def add_gradients(
        self, autoencoder: SparseAutoencoder, times: float | Float[Tensor, ""]
    ) -> None:
        """Add `times` its gradients to those that the weights have."""
        for weight, rows in (
            (autoencoder.W_enc, self.of_W_enc),
            (autoencoder.b_enc, self.of_b_enc),
            (autoencoder.W_dec, self.of_W_dec),
        ):
            if weight.grad is not None:
                weight.grad.index_add_(0, self.latents, rows * times)


@torch.no_grad()
def auxk(
    autoencoder: SparseAutoencoder,
    centred: Float[Tensor, "batch d_in"],
    errors: Float[Tensor, "batch d_in"],
    dead: Dead,
    variance: Float[Tensor, ""],
) -> AuxK:
    """How badly the dead latents reconstruct what the live ones leave: mean ||e - e_hat||^2 /
    variance.

    Emergence, appendix: AuxK, coefficient 1/32, k_aux = 256. `centred` = x - b and `errors` = x_hat
    - x = -e are in scaled units. This loss moves nothing but the dead latents. The k_aux latents
    "inactive the longest" are chosen once a batch; the original of AuxK chooses once a row. This is
    the same while no more than k_aux latents are dead, and its cost does not depend on how many are
    dead.

    With A = relu((x - b) W_enc^T + b_enc) and left = A W_dec - e over the dead latents alone, G = 2
    left / (batch * variance) and E = G W_dec^T where A > 0, the gradients are E^T (x - b), E^T 1
    and A^T G.
    """
    dtype = autoencoder.product_dtype
    latents, are_dead = dead
    low, encoder = centred.to(dtype), autoencoder.W_enc[latents].to(dtype)
    decoder = autoencoder.W_dec[latents].to(dtype)
    active = product(low, encoder.T).add_(autoencoder.b_enc[latents]).relu_()
    if are_dead is not None:
        active *= are_dead
    low_active = active.to(dtype)
    left = autoencoder.sparsity.total(product(low_active, decoder)).add_(errors)
    loss = normalised(torch.linalg.vector_norm(left, dim=1).square().sum(), len(left), variance)
    if are_dead is not None:
        loss = loss * are_dead.any()
    times = 2 / max(len(left), 1) / variance
    gradient = torch.mul(left, times, out=torch.empty_like(left, dtype=dtype))
    of_active = torch.ops.aten.threshold_backward(product(gradient, decoder.T), active, 0)
    return AuxK(
        loss,
        latents,
        product(of_active.to(dtype).T, low),
        of_active.sum(dim=0),
        product(low_active.T, gradient),
    )
