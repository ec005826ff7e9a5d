"""Stability of latents over seeds: the cosine with their partner in another SAE of the same cell,
of their directions or of their maps.

Partners are matched one to one, with the largest sum of cosines (Hungarian method; compare "Sparse
Autoencoders Trained on the Same Data Learn Different Features", arXiv 2501.16615). Range [-1, 1];
higher = more stable. Random directions have some cosine too, which falls with d_in and rises with
d_sae: compare with it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from diffusae.errors import UserError
from diffusae.evaluation.recovery import SparseCodes


def matched_cosines(
    directions: Float[Tensor, "m d"], others: Float[Tensor, "n d"]
) -> Float[Tensor, " m"]:
    """Each row's cosine with its partner in `others`.

    Raises:
        UserError: vectors of different lengths, or fewer `others` than rows.
    """
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
    return torch.from_numpy(_matched(cosines.numpy()))


def nearest_directions(
    directions: Float[Tensor, "m d"], others: Float[Tensor, "n d"], *, rows_at_once: int = 1024
) -> tuple[Float[Tensor, " m"], Int[Tensor, " m"]]:
    """Each row's largest cosine with any row of `others`, and the number of that row. Several rows
    may have the same partner. Range [-1, 1]; a row of zeros has 0.

    Raises:
        UserError: vectors of different lengths, or no `others`.
    """
    if directions.shape[1] != others.shape[1] or not len(others):
        raise UserError(
            f"directions {list(directions.shape)} and {list(others.shape)} cannot be compared;"
            " give SAEs of blocks of one width"
        )
    normal = F.normalize(others.float(), dim=1).T
    parts = [
        (F.normalize(part.float(), dim=1) @ normal).max(dim=1)
        for part in directions.split(rows_at_once)
    ]
    return torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])


def matched_maps(
    codes: SparseCodes, others: SparseCodes, latents: Int[np.ndarray, " m"]
) -> NDArray[np.float64]:
    """The correlation, over positions, of chosen latents' codes with those of their partners among
    the others, [m]. Range [-1, 1]; a latent that never varies has 0.

    Raises:
        UserError: fewer other latents than chosen ones, or other positions.
    """
    if codes.shape[0] != others.shape[0] or others.shape[1] < len(latents):
        raise UserError(
            f"{len(latents)} latents at {codes.shape[0]} positions need as many partners at the"
            f" same ones, got {others.shape[1]} at {others.shape[0]}; compare SAEs of one cell"
        )
    (first, mean, length), (second, mean_, length_) = (
        _moments(one.astype(np.float64)) for one in (codes[:, latents], others)
    )
    covariance = (first.T @ second).toarray() / first.shape[0] - np.outer(mean, mean_)
    return _matched(covariance / np.outer(length, length_))


def _moments(codes: Any) -> tuple[Any, NDArray[np.float64], NDArray[np.float64]]:
    """The codes, each latent's mean, and its standard deviation, infinite where it is 0."""
    mean = codes.mean(axis=0)
    variance = (codes * codes).mean(axis=0) - mean**2
    return codes, mean, np.sqrt(np.where(variance > 1e-12, variance, np.inf))


def _matched(alike: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each row's value in the one-to-one matching with the largest sum."""
    from scipy.optimize import linear_sum_assignment  # a third of a second

    rows, columns = linear_sum_assignment(alike, maximize=True)
    matched = np.empty(len(alike))
    matched[rows] = alike[rows, columns]
    return matched
