"""The largest pre-activations by a product in 8 bits, with a proof that none is missed.

A product in 8 bits takes half the time of one in float32 on a CPU with AVX2 alone. It errs, but not
by more than a known margin, which is added. So a row is settled in this way (k = 1):

    upper bounds   2.05  1.99  1.60  1.2  ...   in 8 bits; candidates are latents 0 and 1
    float32        2.01  1.97                   the candidates' values, computed anew
    2.01 >= 1.99                                no other latent reaches 1.99: 0 is the largest

A row where the last line does not hold is sought again in float32 (`diffusae.sae.search`). So both
ways find the same latents.
"""

from __future__ import annotations

from functools import cache

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

ROWS = 256
"""Rows that are multiplied at a time: the products of 5120 latents then stay in the cache."""

SPARE = 24
"""Candidates a row beyond k. Of 5120 Gaussian pre-activations at k = 20, some 12 others lie
within the margin of the 20th, and rarely more than 24.
"""

DEVIATIONS = 7
"""Standard deviations of a product's error that the margin is wide. Rounding errors are taken as
independent and uniform. Then one of the k largest lies above its upper bound with a probability of
at most exp(-24.5) = 2e-11, by Hoeffding's bound for sub-Gaussian sums.
"""

LEVELS = 63
"""Rows are rounded to integers from -63 to 63, and 64 is added: 7 bits. AVX2 adds two products of 8
bits in 16 bits, and with 8 full bits such a sum would be cut off.
"""


class Screen:
    """An encoder in 8 bits.

    Args:
        W_enc: float32 [d_sae, d_in] on a CPU.
    """

    def __init__(self, W_enc: Float[Tensor, "d_sae d_in"]) -> None:
        steps = _steps(W_enc, 127)
        integers = (W_enc / steps).round_().to(torch.int8)
        self._steps = steps.squeeze(1)
        self._norms = torch.linalg.vector_norm(W_enc, dim=1)
        self._packed = torch.ops.onednn.qlinear_prepack(integers, None)

    def upper_bounds(
        self, centred: Float[Tensor, "rows d_in"], b_enc: Float[Tensor, " d_sae"] | None
    ) -> Float[Tensor, "rows d_sae"]:
        """What W_enc centred + b_enc does not exceed, but for the rounding to bfloat16, which is
        searched faster than float32.
        """
        steps = _steps(centred, LEVELS)
        integers = (centred / steps).round_().add_(LEVELS + 1).to(torch.uint8)
        # Rounding to steps of s is uniform in [-s/2, s/2]: its variance is s^2 / 12. A row x and an
        # encoder row w err by the steps of x times |w|, and by |x| times the steps of w. In steps
        # of x this depends on x by |x| / step alone; with the largest of the block it is a margin
        # of the latent, which the product adds as its bias.
        lengths = (torch.linalg.vector_norm(centred, dim=1, keepdim=True) / steps).amax()
        margins = torch.hypot(self._norms, lengths * self._steps) * (DEVIATIONS / 12**0.5)
        bounds = _product(integers, self._packed, self._steps, margins).mul_(steps)
        if b_enc is not None:
            bounds += b_enc
        return bounds.to(torch.bfloat16)


def settled(kth: Float[Tensor, " rows"], least: Float[Tensor, " rows"]) -> Bool[Tensor, " rows"]:
    """Whether no latent outside of a row's candidates can be among its k largest.

    Args:
        kth: the k-th largest value of the candidates in float32, at least 0.
        least: the smallest upper bound of a candidate.
    """
    # A number in bfloat16 is up to 1/256 off. Those below 0 count as equal in the search.
    return kth >= least.float().clamp_min(0) * (1 + 1 / 256)


def _steps(matrix: Float[Tensor, "rows d"], levels: int) -> Float[Tensor, "rows 1"]:
    """Steps of the rounding: the largest entry of every row becomes `levels`."""
    tiny = torch.finfo(matrix.dtype).tiny
    return matrix.abs().amax(dim=1, keepdim=True).clamp_min_(tiny * levels) / levels


def _product(
    left: UInt8[Tensor, "rows d"],
    packed: Tensor,
    scales: Float[Tensor, " columns"],
    bias: Float[Tensor, " columns"],
) -> Float[Tensor, "rows columns"]:
    """((left - 64) @ right^T) * scales + bias of the packed matrix `right`."""
    zeros = torch.zeros(len(scales), dtype=torch.int32)
    return torch.ops.onednn.qlinear_pointwise(
        left, 1.0, LEVELS + 1, packed, scales, zeros,
        bias, 1.0, 0, torch.float32, "none", [], "",
    )  # fmt: skip


@cache
def available() -> bool:
    """Whether this machine's torch multiplies 8-bit integers by oneDNN, without an error."""
    generator = torch.Generator().manual_seed(0)
    left = torch.randint(1, 128, (3, 64), dtype=torch.uint8, generator=generator)
    right = torch.randint(-127, 128, (32, 64), dtype=torch.int8, generator=generator)
    left[0], right[0] = 127, 127  # the largest sums, which a processor might cut off
    ones = torch.ones(len(right))
    try:
        product = _product(left, torch.ops.onednn.qlinear_prepack(right, None), ones, ones)
    except (RuntimeError, NotImplementedError, AttributeError):
        return False  # built without oneDNN
    return torch.equal(product, (left.float() - 64) @ right.T.float() + 1)
