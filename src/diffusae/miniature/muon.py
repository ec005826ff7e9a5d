"""The optimiser of the denoiser: Muon for its weight matrices, Adam for all else."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

STEPS = 5
"""Newton-Schulz steps."""
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the polynomial that a step applies to the singular values."""
RMS = 0.4
"""Root mean square of an update's entries, in learning rates. Adam's is about as large."""


class Muon(torch.optim.Optimizer):
    """Updates a weight matrix by its averaged gradient with all singular values near 1.

    Small directions of the gradient so are learned as fast as large ones (Jordan et al. 2024, Muon;
    the scale of the updates follows Liu et al. 2025, arXiv 2502.16982, section 2.2). A convolution
    is a matrix of outputs x (inputs x kernel). `torch.optim.Muon` takes no convolutions, and its
    products are in bfloat16, which is slow on most CPUs.

    Args:
        matrices: weights with two or more dimensions; the first is the output.
        others: what Adam updates: vectors, embeddings, first and last layers.
        lr: the learning rate of both.
        momentum: of the gradients of matrices, with Nesterov's look ahead.
        betas: of Adam.
        decay: decoupled weight decay of all.
    """

    def __init__(
        self,
        matrices: Iterable[Tensor],
        others: Iterable[Tensor],
        *,
        lr: float,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.99),
        decay: float = 0.01,
    ) -> None:
        groups: list[dict[str, Any]] = [
            {"params": list(matrices), "orthogonal": True},
            {"params": list(others), "orthogonal": False},
        ]
        super().__init__(groups, {"lr": lr, "momentum": momentum, "betas": betas, "decay": decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of everything that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            update = self._orthogonal if group["orthogonal"] else self._adam
            for weight in group["params"]:
                if (gradient := weight.grad) is not None:
                    change = update(weight, gradient, group)
                    weight.mul_(1 - group["lr"] * group["decay"]).sub_(change, alpha=group["lr"])
        return loss

    def _orthogonal(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> Tensor:
        state = self.state[weight]
        average = state.setdefault("average", torch.zeros_like(weight))
        average.lerp_(gradient, 1 - group["momentum"])
        ahead = torch.lerp(gradient, average, group["momentum"]).flatten(1)
        scale = RMS * max(ahead.shape) ** 0.5
        return (scale * orthogonal(ahead)).view(weight.shape)

    def _adam(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> Tensor:
        state, (first, second) = self.state[weight], group["betas"]
        mean = state.setdefault("mean", torch.zeros_like(weight))
        square = state.setdefault("square", torch.zeros_like(weight))
        state["steps"] = state.get("steps", 0) + 1
        mean.lerp_(gradient, 1 - first)
        square.lerp_(gradient.square(), 1 - second)
        steps = state["steps"]
        deviation = (square / (1 - second**steps)).sqrt_().add_(1e-8)
        return mean / (1 - first**steps) / deviation


def orthogonal(matrix: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
    """The matrix with its singular values brought to between 0.7 and 1.2, unless they are tiny.

    The matrix is divided by its norm first. A step then maps every singular value s to
    a s + b s^3 + c s^5, by products alone. Example: diag(.9, .5, .1) becomes diag(.85, .88, .69).
    """
    a, b, c = COEFFICIENTS
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    wide = wide / (wide.norm() + 1e-7)
    # All factors of the product are polynomials of one symmetric matrix, so they commute: the steps
    # need products of small square matrices alone.
    gram = wide @ wide.T
    product: Tensor | None = None
    for step in range(STEPS):
        factor = b * gram + c * gram @ gram
        factor.diagonal().add_(a)
        product = factor if product is None else factor @ product
        if step < STEPS - 1:
            gram = factor @ gram @ factor
    assert product is not None
    wide = product @ wide
    return wide if matrix.shape[0] <= matrix.shape[1] else wide.T


def hidden_matrices(module: nn.Module, *, outer: Iterable[str]) -> list[Tensor]:
    """The weights of linear layers and convolutions that Muon updates: no embedding's, and none of
    the `outer` layers, which read the latent or write the prediction.
    """
    left_out = set(outer)
    return [
        layer.weight
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d) and "embed" not in name and name not in left_out
    ]
