"""Products of 8-bit integers, to choose latents by: four times as many a cycle as in float32 where
a CPU has VNNI.

Every row is scaled so that its largest entry is 127. A rounding error is then at most 1/254 of that
entry; over d_in = 1280 Gaussian entries the errors of a product come to about 1.1 % of its standard
deviation. An entry that towers over its row costs the others their precision: such data want
`input_scaling="standardise"`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int8, Int32
from torch import Tensor


class Quantised(NamedTuple):
    """A matrix as `integers * scales`."""

    integers: Int8[Tensor, "rows d"]
    scales: Float[Tensor, "rows 1"]


def quantised(matrix: Float[Tensor, "rows d"]) -> Quantised:
    """The matrix in 8 bits; a row of zeros stays one."""
    # Two passes, and yet four times faster on a CPU than aminmax.
    scales = matrix.abs().amax(dim=1, keepdim=True).clamp_min_(torch.finfo(matrix.dtype).tiny) / 127
    return Quantised((matrix / scales).round_().to(torch.int8), scales)


def product(
    left: Quantised, right: Quantised, *, memory: Int32[Tensor, "left right"]
) -> Float[Tensor, "left right"]:
    """left @ right^T: the sums are exact, the scales are applied in floating point. The result lies
    in `memory`.
    """
    torch._int_mm(left.integers, right.integers.T, out=memory)
    # Converted first: a product of integers and floating-point numbers is not vectorised. Entry by
    # entry in place: half the memory to go through.
    floats = memory.view(torch.float32)
    return floats.copy_(memory).mul_(right.scales.squeeze(1)).mul_(left.scales)
