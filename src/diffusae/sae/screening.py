"""The largest pre-activations by a product in 8 bits, with a proof that none is missed.

A product in 8 bits takes half the time of one in float32 on a CPU with AVX2 alone. It errs, but not
by more than a known margin, which is added. So a row is settled in this way (k = 1):

    upper bounds   2.05  1.99  1.60  1.2  ...   in 8 bits; candidates are latents 0 and 1
    float32        2.01  1.97                   the candidates' values, computed anew
    2.01 >= 1.99                                no other latent reaches 1.99: 0 is the largest

Where the last line does not hold, as with 1.98 in place of 2.01, all latents whose bounds reach
1.98 become candidates, and their values in float32 decide (`diffusae.sae.search`). So both ways
find the same latents.
"""

from __future__ import annotations

from functools import cache

import torch
from jaxtyping import Bool, Float, Int8, UInt8
from torch import Tensor

ROWS = 256
"""Rows that are multiplied at a time: the products of 5120 latents then stay in the cache."""

ROWS_OF_VALUES = 1024
"""Rows whose candidates' values are computed at a time: the cache then holds 5 MB of rows, and goes
once through the encoder.
"""

SPARE = 24
"""Candidates a row beyond k. Of 5120 Gaussian pre-activations at k = 20, some 12 others lie
within the margin of the 20th, and rarely more than 24.
"""

DEVIATIONS = 7
"""Standard deviations of a product's error that the margin is wide. Rounding errors are taken as
independent and uniform. Then one of the k largest lies above its upper bound with a probability of
at most exp(-24.5) = 2e-11, by Hoeffding's bound for sub-Gaussian sums.
"""

LEVELS = 90
"""Rows are rounded to integers from -90 to 90; vectors get 90 added, since their side has no sign.
AVX2 adds two products of 8 bits in 16 bits. 2 * 180 * 90 is the largest sum, and it just fits.
"""


class Screen:
    """An encoder in 8 bits.

    Args:
        W_enc: float32 [d_sae, d_in] on a CPU.
    """

    def __init__(self, W_enc: Float[Tensor, "d_sae d_in"]) -> None:
        integers, self._steps = _in_8_bits(W_enc)
        self._norms = torch.linalg.vector_norm(W_enc, dim=1)
        self._packed = torch.ops.onednn.qlinear_prepack(integers, None)

    def upper_bounds(
        self, centred: Float[Tensor, "rows d_in"], b_enc: Float[Tensor, " d_sae"] | None
    ) -> Float[Tensor, "rows d_sae"]:
        """What W_enc centred + b_enc does not exceed, but for the rounding to bfloat16, which is
        searched faster than float32.
        """
        integers, steps = _in_8_bits(centred)
        # Rounding to steps of s is uniform in [-s/2, s/2]: its variance is s^2 / 12. A row x and an
        # encoder row w err by the steps of x times |w|, and by |x| times the steps of w. In steps
        # of x this depends on x by |x| / step alone; with the largest of the block it is a margin
        # of the latent, which the product adds as its bias.
        lengths = (torch.linalg.vector_norm(centred, dim=1) / steps).amax()
        margins = torch.hypot(self._norms, lengths * self._steps) * (DEVIATIONS / 12**0.5)
        bounds = _product(
            integers.view(torch.uint8) + LEVELS, self._packed, self._steps, margins
        ).mul_(steps.unsqueeze(1))
        if b_enc is not None:
            bounds += b_enc
        return bounds.to(torch.bfloat16)


def settled(kth: Float[Tensor, " rows"], least: Float[Tensor, " rows"]) -> Bool[Tensor, " rows"]:
    """Whether no latent outside of a row's candidates can be among its k largest.

    Args:
        kth: the k-th largest value of the candidates in float32, at least 0.
        least: the smallest upper bound of a candidate.
    """
    return kth >= _most(least)


def may_reach(
    kth: Float[Tensor, " rows"], bounds: Float[Tensor, "rows d_sae"]
) -> Bool[Tensor, "rows d_sae"]:
    """Which latents can be among a row's k largest by their upper bounds; of a row that is not
    finite all.
    """
    return ~(_most(bounds) < kth.unsqueeze(1))


def _most(bounds: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """What a value is at most, by its upper bound in bfloat16."""
    # A number in bfloat16 is up to 1/256 off. Those below 0 count as equal in the search.
    return bounds.float().clamp_min(0) * (1 + 1 / 256)


def _in_8_bits(
    matrix: Float[Tensor, "rows d"],
) -> tuple[Int8[Tensor, "rows d"], Float[Tensor, " rows"]]:
    """Integers from -LEVELS to LEVELS, and the steps of rows: an entry is about integer * step."""
    integers = torch.empty(matrix.shape, dtype=torch.int8)
    steps = torch.empty(len(matrix), 1)
    # Block by block, what lies between stays in the cache.
    parts = (whole.split(ROWS) for whole in (matrix, integers, steps))
    for rows, rounded, step in zip(*parts, strict=True):
        torch.amax(rows.abs(), dim=1, keepdim=True, out=step)
        step.div_(LEVELS).clamp_min_(torch.finfo(step.dtype).tiny)
        rounded.copy_((rows / step).round_())
    return integers, steps.squeeze(1)


def _product(
    left: UInt8[Tensor, "rows d"],
    packed: Tensor,
    scales: Float[Tensor, " columns"],
    bias: Float[Tensor, " columns"],
) -> Float[Tensor, "rows columns"]:
    """((left - LEVELS) @ right^T) * scales + bias of the packed matrix `right`."""
    zeros = torch.zeros(len(scales), dtype=torch.int32)
    return torch.ops.onednn.qlinear_pointwise(
        left, 1.0, LEVELS, packed, scales, zeros,
        bias, 1.0, 0, torch.float32, "none", [], "",
    )  # fmt: skip


@cache
def available() -> bool:
    """Whether this machine's torch multiplies 8-bit integers by oneDNN, without an error."""
    generator = torch.Generator().manual_seed(0)
    left = torch.randint(0, 2 * LEVELS + 1, (3, 64), dtype=torch.uint8, generator=generator)
    right = torch.randint(-LEVELS, LEVELS + 1, (32, 64), dtype=torch.int8, generator=generator)
    left[0], right[0] = 2 * LEVELS, LEVELS  # the largest sums, which a processor might cut off
    ones = torch.ones(len(right))
    try:
        product = _product(left, torch.ops.onednn.qlinear_prepack(right, None), ones, ones)
    except (RuntimeError, NotImplementedError, AttributeError):
        return False  # built without oneDNN
    return torch.equal(product, (left.float() - LEVELS) @ right.T.float() + 1)
