"""Directions to edit along that need no SAE: what its concepts must be as good as."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from diffusae.errors import UserError


def difference_of_means(
    vectors: Float[Tensor, "n d_in"], having: Bool[Tensor, " n"], lacking: Bool[Tensor, " n"]
) -> Float[Tensor, " d_in"]:
    """The "steering vector": mean of the updates that have a property less that of those that lack it, unit length.

    Raises:
        UserError: no vector on one side, or no difference.
    """
    if not having.any() or not lacking.any():
        raise UserError(
            "a difference of means needs updates with the property and updates without; collect more"
        )
    difference = vectors[having].mean(dim=0) - vectors[lacking].mean(dim=0)
    if not difference.norm() > 0:
        raise UserError("both means are the same: there is no direction from one to the other")
    return F.normalize(difference, dim=0)


def neuron(direction: Float[Tensor, " d_in"]) -> Float[Tensor, " d_in"]:
    """The single entry of the update that comes closest to a direction, with its sign: a raw neuron, unit length."""
    axis = torch.zeros_like(direction)
    strongest = direction.abs().argmax()
    axis[strongest] = direction[strongest].sign()
    return axis
