"""Products with sparse codes whose cost grows with k, not with d_sae, forwards and backwards.

Dense autograd would fill a [batch, d_sae] gradient and multiply it twice, although only k entries a row are
not zero.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def sparse_decode(
    values: Float[Tensor, "... k"], indices: Int[Tensor, "... k"], rows: Float[Tensor, "d_sae d"]
) -> Float[Tensor, "... d"]:
    """Z @ rows for the sparse matrix Z of `values` at `indices`; differentiable in `values` and `rows`."""
    k = indices.shape[-1]
    product = F.embedding_bag(
        indices.reshape(-1, k), rows, per_sample_weights=values.reshape(-1, k).to(rows.dtype), mode="sum"
    )
    return product.reshape(*indices.shape[:-1], rows.shape[1])


def transposed_product(
    values: Float[Tensor, "batch k"],
    indices: Int[Tensor, "batch k"],
    dense: Float[Tensor, "batch d"],
    d_sae: int,
) -> Float[Tensor, "d_sae d"]:
    """Z^T @ dense. Entries are sorted by latent, so that each latent's sum is one bag of rows of `dense`."""
    order = torch.argsort(indices.flatten(), stable=True)
    counts = torch.bincount(indices.flatten(), minlength=d_sae)
    return F.embedding_bag(
        order // indices.shape[1],
        dense,
        offsets=counts.cumsum(0) - counts,
        per_sample_weights=values.flatten()[order].to(dense.dtype),
        mode="sum",
    )


def selected_pre_activations(
    centred: Float[Tensor, "batch d_in"],
    weight: Float[Tensor, "d_sae d_in"],
    pre_activations: Float[Tensor, "batch d_sae"],
    indices: Int[Tensor, "batch k"],
) -> Float[Tensor, "batch k"]:
    """The entries `indices` of centred @ weight^T, read from `pre_activations`, which holds that product.

    Differentiable in `centred` and `weight`, at the cost of the chosen entries only.
    """
    return _SelectedPreActivations.apply(centred, weight, pre_activations, indices)  # type: ignore[no-any-return]


class _SelectedPreActivations(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, centred: Tensor, weight: Tensor, pre_activations: Tensor, indices: Tensor
    ) -> Tensor:
        ctx.save_for_backward(centred, weight, indices)
        return pre_activations.gather(1, indices)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        centred, weight, indices = ctx.saved_tensors
        gradient = gradients[0].to(weight.dtype).contiguous()
        of_centred = sparse_decode(gradient, indices, weight) if ctx.needs_input_grad[0] else None
        return of_centred, transposed_product(gradient, indices, centred, weight.shape[0]), None, None
