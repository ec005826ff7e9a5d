"""Directions to edit along: from latents that show a property, and baselines without an SAE."""

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
    """The latents that show a property, the best first.

    `weights`: how much larger their mean codes are with the property (data units).
    """

    latents: Int[Tensor, " m"]
    weights: Float[Tensor, " m"]

    def direction(self, sae: SparseAutoencoder) -> Float[Tensor, " d_in"]:
        """sum_c w_c f_c at unit length: the paper's sum of concept vectors, weighted."""
        sae.require_one_stream()
        return F.normalize(self.weights @ sae.directions_of(self.latents).detach(), dim=0)


class Contrast:
    """What distinguishes updates with a property from updates without it; filled in parts.

    Args:
        d_in: length of an update.
        d_sae: latents of the SAE.
        device: of the vectors that are added. Nothing waits for it before a result is read.
    """

    def __init__(self, d_in: int, d_sae: int, *, device: torch.device | str = "cpu") -> None:
        self.has_updates = True
        """Whether all that was added came with its updates."""
        self._counts, self._updates, self._codes, self._squares = (
            torch.zeros(*shape, dtype=torch.float64, device=device)
            for shape in ((2,), (2, d_in), (2, d_sae), (d_sae,))
        )

    def add(
        self,
        updates: Float[Tensor, "n d_in"] | None,
        codes: Float[Tensor, "n d_sae"],
        *,
        having: Bool[Tensor, " n"],
        lacking: Bool[Tensor, " n"],
    ) -> None:
        """Add updates with their dense codes; rows in neither group do not count. None: the updates
        are not stored.
        """
        groups, codes = torch.stack([having, lacking]).double(), codes.double()
        self._counts += groups.sum(dim=1)
        self._codes += groups @ codes
        self._squares += groups.sum(dim=0) @ codes.square()
        if updates is None:
            self.has_updates = False
        else:
            self._updates += groups @ updates.double()

    @property
    def complete(self) -> bool:
        """Whether both groups have updates."""
        return bool((self._counts > 0).all())

    def difference_of_means(self) -> Float[Tensor, " d_in"]:
        """The "steering vector": mean update with the property minus mean without, unit length.

        Raises:
            UserError: a group without updates, or no difference.
        """
        if not self.has_updates:
            raise UserError("the means of updates are needed, and only their codes are stored")
        difference = self._difference(self._updates)
        if not difference.norm() > 0:
            raise UserError("both means are the same: there is no direction from one to the other")
        return F.normalize(difference, dim=0)

    def telling(self, n_latents: int) -> TellingLatents | None:
        """The `n_latents` best latents of the property; None where no code is larger with it.

        They rank by the difference of mean codes, in standard deviations over all updates.
        """
        difference = self._difference(self._codes)
        total = self._counts.sum()
        variance = self._squares / total - (self._codes.sum(dim=0) / total).square()
        deviation = variance.clamp_min(0).sqrt().float()
        score = difference / deviation.clamp_min(torch.finfo(torch.float32).tiny)
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
    """The raw neuron closest to a direction: its largest entry alone, as +1 or -1."""
    axis = torch.zeros_like(direction)
    strongest = direction.abs().argmax()
    axis[strongest] = direction[strongest].sign()
    return axis
