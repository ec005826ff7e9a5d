"""The products of a training step as dense matrix products, forwards and backwards.

A GPU multiplies matrices in bfloat16 so fast that [rows, d_sae] matrices of mostly zeros cost less
than picking the rows that count, as long as d_sae is small (`diffusae.sae.kernels` decides). Where
vectors are [rows, d_in], a step has five such products:

    pre  = (x - b) W_enc^T + b_enc        dW_enc = E^T (x - b)
    x_hat = z W_dec + b                   dW_dec = z^T G
    dz   = G W_dec^T

G is the gradient of x_hat and E that of pre; db = G^T 1 - W_enc^T (E^T 1) needs none. Weights and
their gradients stay in float32, and sums are made in float32: only what is multiplied is rounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from diffusae.sae.sparse_ops import gradient_of_errors


def product(left: Float[Tensor, "n m"], right: Float[Tensor, "m l"]) -> Float[Tensor, "n l"]:
    """left @ right, summed and given in float32 at the least."""
    if left.dtype != torch.bfloat16:
        return left @ right
    if left.device.type != "cuda":
        return left.float() @ right.float()
    if hasattr(torch.ops.aten.mm, "dtype"):
        return torch.mm(left, right, out_dtype=torch.float32)
    return torch.mm(left, right).float()  # before torch 2.8; the result is rounded


def pre_activations(
    centred: Float[Tensor, "rows d_in"],
    *,
    b: Float[Tensor, " d_in"],
    W_enc: Float[Tensor, "d_sae d_in"],
    b_enc: Float[Tensor, " d_sae"] | None,
    dtype: torch.dtype,
    rounded: bool,
) -> Float[Tensor, "rows d_sae"]:
    """W_enc centred + b_enc, differentiable in the weights.

    Args:
        centred: the vectors less b; its own gradient goes to b.
        dtype: of what is multiplied. rounded: of the result too.
    """
    return _PreActivations.apply(centred, b, W_enc, b_enc, dtype, rounded)  # type: ignore[no-any-return]


class _PreActivations(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        centred: Tensor,
        b: Tensor,
        W_enc: Tensor,
        b_enc: Tensor | None,
        dtype: torch.dtype,
        rounded: bool,
    ) -> Tensor:
        low, weights = centred.to(dtype), W_enc.to(dtype).T
        ctx.save_for_backward(low, W_enc)
        if not rounded:
            made = product(low, weights)
            return made if b_enc is None else made.add_(b_enc)
        if b_enc is None:
            return torch.mm(low, weights)
        return torch.addmm(b_enc.to(dtype), low, weights)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        low, W_enc = ctx.saved_tensors
        of_pre = gradients[0]
        of_b_enc = of_pre.sum(dim=0, dtype=W_enc.dtype)
        of_W_enc = product(of_pre.to(low.dtype).T, low)
        of_b = -(of_b_enc @ W_enc)
        return None, of_b, of_W_enc, of_b_enc if ctx.needs_input_grad[3] else None, None, None


def only(
    pre_activations: Float[Tensor, "rows d_sae"], z: Float[Tensor, "rows d_sae"]
) -> Float[Tensor, "rows d_sae"]:
    """z, the pre-activations with 0 in the place of those that are not chosen, differentiable in
    the pre-activations. Those that are not above 0 have no gradient.
    """
    return _Only.apply(pre_activations, z)  # type: ignore[no-any-return]


class _Only(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pre_activations: Tensor, z: Tensor) -> Tensor:
        ctx.save_for_backward(z)
        return z.view_as(z)  # a new tensor, as autograd wants it

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (z,) = ctx.saved_tensors
        # ReLU's own: the gradient where z > 0, in one pass over the matrices.
        return torch.ops.aten.threshold_backward(gradients[0], z, 0), None


def dense_errors(
    centred: Float[Tensor, "rows d_in"],
    z: Float[Tensor, "rows d_sae"],
    *,
    b: Float[Tensor, " d_in"],
    W_dec: Float[Tensor, "d_sae d_in"],
    prefixes: Sequence[int],
    dtype: torch.dtype,
) -> tuple[Float[Tensor, "rows prefixes d_in"], Float[Tensor, " prefixes"]]:
    """x_hat - x with x_hat = z W_dec + b, and the sum over the rows of their squared norms, as
    `sparse_ops.chosen_errors` gives them: of the first latents only, up to every one of `prefixes`,
    and last of all. Differentiable in z, b and W_dec.

    Args:
        centred: the vectors less b, a constant.
        dtype: of what is multiplied.
    """
    ends = (*prefixes, len(W_dec))
    return _DenseErrors.apply(centred, z, b, W_dec, ends, dtype)  # type: ignore[no-any-return]


class _DenseErrors(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        centred: Tensor,
        z: Tensor,
        b: Tensor,
        W_dec: Tensor,
        ends: tuple[int, ...],
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        low, weights = z.to(dtype), W_dec.to(dtype)
        parts = [
            product(low[:, first:end], weights[first:end]) for first, end in pairwise((0, *ends))
        ]
        errors = parts[0].unsqueeze(1) if len(parts) == 1 else torch.stack(parts, 1).cumsum(dim=1)
        # b, which x_hat adds, and the b of x - b cancel.
        errors = errors.sub_(centred.unsqueeze(1))
        ctx.save_for_backward(low, weights, errors)
        ctx.ends, ctx.rounded = ends, z.dtype == dtype
        ctx.set_materialize_grads(False)
        return errors, torch.linalg.vector_norm(errors, dim=-1).square().sum(dim=0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        low, weights, errors = ctx.saved_tensors
        gradient, times = gradient_of_errors(errors, *gradients)
        of_b = gradient.sum(dim=(0, 1)) * times
        if gradient.shape[1] > 1:
            # Part p is in the prefixes p, p + 1, ...: its gradient is the sum of theirs.
            gradient = gradient.flip(1).cumsum(dim=1).flip(1)
        scaled = torch.mul(gradient, times, out=torch.empty_like(gradient, dtype=low.dtype))
        of_z, of_W_dec = [], []
        for of_x_hat, (first, end) in zip(scaled.unbind(1), pairwise((0, *ctx.ends)), strict=True):
            times_W_dec = torch.mm if ctx.rounded else product
            of_z.append(times_W_dec(of_x_hat, weights[first:end].T))
            of_W_dec.append(product(low[:, first:end].T, of_x_hat))
        return None, _joined(of_z, dim=1), of_b, _joined(of_W_dec, dim=0), None, None


def _joined(parts: list[Tensor], *, dim: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=dim)
