"""Directions to edit along: from an SAE's latents that tell a property, and from what needs no SAE,
to compare with.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from diffusae.errors import UserError
from diffusae.sae.autoencoder import SparseAutoencoder


@dataclass(frozen=True)
class TellingLatents:
    """The latents that tell a property best, the best first, and how much larger their codes are
    with it (data units).
    """

    latents: Int[Tensor, " m"]
    weights: Float[Tensor, " m"]

    def direction(self, sae: SparseAutoencoder) -> Float[Tensor, " d_in"]:
        """sum_c w_c f_c, scaled to unit length: the paper's sum of concept vectors (Emergence,
        section 6), weighted.
        """
        return F.normalize(self.weights @ sae.directions.detach()[self.latents], dim=0)


class Contrast:
    """What sets apart the updates that have a property from those that lack it, gathered part by
    part.

    Args:
        d_in: length of an update.
        d_sae: latents of the SAE.
    """

    def __init__(self, d_in: int, d_sae: int) -> None:
        self._counts = torch.zeros(2, dtype=torch.float64)
        self._updates = torch.zeros(2, d_in, dtype=torch.float64)
        self._codes = torch.zeros(2, d_sae, dtype=torch.float64)
        self._squares = torch.zeros(d_sae, dtype=torch.float64)

    def add(
        self,
        updates: Float[Tensor, "n d_in"],
        codes: Float[Tensor, "n d_sae"],
        *,
        having: Bool[Tensor, " n"],
        lacking: Bool[Tensor, " n"],
    ) -> None:
        """Count in some updates with their dense codes; those that neither have nor lack the
        property do not count.
        """
        for row, chosen in enumerate((having, lacking)):
            if not chosen.any():
                continue
            self._counts[row] += int(chosen.sum())
            self._updates[row] += updates[chosen].sum(dim=0, dtype=torch.float64)
            self._codes[row] += codes[chosen].sum(dim=0, dtype=torch.float64)
            self._squares += codes[chosen].double().square().sum(dim=0)

    @property
    def complete(self) -> bool:
        """Whether there are updates on both sides."""
        return bool((self._counts > 0).all())

    def difference_of_means(self) -> Float[Tensor, " d_in"]:
        """The "steering vector": mean of the updates that have the property less that of those that
        lack it, unit length.

        Raises:
            UserError: no update on one side, or no difference.
        """
        difference = self._difference(self._updates)
        if not difference.norm() > 0:
            raise UserError("both means are the same: there is no direction from one to the other")
        return F.normalize(difference, dim=0)

    def telling(self, n_latents: int) -> TellingLatents | None:
        """The latents whose codes tell the property best; None where no code is larger with it.

        Best: by the difference of mean codes in standard deviations over all that was added.
        """
        difference = self._difference(self._codes)
        total = self._counts.sum()
        variance = self._squares / total - (self._codes.sum(dim=0) / total).square()
        score = difference / variance.clamp_min(0).sqrt().float().clamp_min(
            torch.finfo(torch.float32).tiny
        )
        best = score.topk(min(n_latents, len(score))).indices
        best = best[difference[best] > 0]
        return TellingLatents(best, difference[best]) if len(best) else None

    def _difference(self, sums: Float[Tensor, "2 d"]) -> Float[Tensor, " d"]:
        if not self.complete:
            raise UserError(
                "a contrast needs updates with the property and updates without; collect more"
            )
        means = sums / self._counts[:, None]
        return (means[0] - means[1]).float()


def neuron(direction: Float[Tensor, " d_in"]) -> Float[Tensor, " d_in"]:
    """The single entry of the update that comes closest to a direction, with its sign: a raw
    neuron, unit length.
    """
    axis = torch.zeros_like(direction)
    strongest = direction.abs().argmax()
    axis[strongest] = direction[strongest].sign()
    return axis
