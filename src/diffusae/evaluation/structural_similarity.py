"""The structural similarity (SSIM) of pictures, pair by pair."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from diffusae.devices import default_device

AT_ONCE = 16
"""Pairs at a time: at 512 x 512 they take some 2 GB in float64."""


def structural_similarity(
    first: UInt8[np.ndarray, "n height width 3"],
    second: UInt8[np.ndarray, "n height width 3"],
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Float[Tensor, " n"]:
    """The SSIM of every pair (torchmetrics, Gaussian window of 11 pixels), on the CPU.

    Range [-1, 1]; 1 = the same. It is computed on the GPU where there is one.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    where = device or default_device()
    parts = [torch.zeros(0, dtype=dtype)]
    for start in range(0, len(first), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        one, other = (
            torch.from_numpy(pictures[part]).to(where).permute(0, 3, 1, 2).to(dtype) / 255
            for pictures in (first, second)
        )
        similarity = structural_similarity_index_measure(
            one, other, data_range=1.0, reduction="none"
        )
        assert isinstance(similarity, Tensor)
        parts.append(similarity.reshape(-1).cpu())
    return torch.cat(parts)
