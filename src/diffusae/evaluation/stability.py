"""Stability of latents over seeds: the cosine with their partner in another SAE of the same cell.

Partners are matched one to one, with the largest sum of cosines (Hungarian method; compare "Sparse
Autoencoders Trained on the Same Data Learn Different Features", arXiv 2501.16615). Range [-1, 1];
higher = more stable. Random directions have some cosine too, which falls with d_in and rises with
d_sae: compare with it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from diffusae.errors import UserError


def matched_cosines(
    directions: Float[Tensor, "m d"], others: Float[Tensor, "n d"]
) -> Float[Tensor, " m"]:
    """Each row's cosine with its partner in `others`.

    Raises:
        UserError: vectors of different lengths, or fewer `others` than rows.
    """
    from scipy.optimize import linear_sum_assignment  # a third of a second

    if directions.shape[1] != others.shape[1]:
        raise UserError(
            f"directions of {directions.shape[1]} and {others.shape[1]} entries cannot be compared;"
            " give SAEs of one cell"
        )
    if len(others) < len(directions):
        raise UserError(
            f"{len(directions)} latents need as many partners, got {len(others)}; compare SAEs of"
            " one size"
        )
    cosines = F.normalize(directions.double(), dim=1) @ F.normalize(others.double(), dim=1).T
    rows, columns = linear_sum_assignment(cosines.numpy(), maximize=True)
    matched = torch.empty(len(directions), dtype=torch.float64)
    matched[torch.as_tensor(rows)] = cosines[rows, columns]
    return matched
