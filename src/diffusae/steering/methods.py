"""What is compared in an intervention: methods, whose directions differ, and forms, in which a
direction is added.

The first method is the paper's. The form `paper` is its equation; another form says in `deviation`
where it departs from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from diffusae.interventions.edits import Change, GlobalPush, Outside, Over, SpatialMove
from diffusae.interventions.regions import Region
from diffusae.sae.autoencoder import SparseAutoencoder

OWN = "concepts"
"""The paper's C_o: every latent whose dictionary entry holds the word."""
METHODS = (
    OWN,
    "dictionary_concepts",
    "chosen_latents",
    "difference_of_means",
    "neuron",
    "random_latent",
)
"""`dictionary_concepts` are the latents of `concepts` once more, for a second form.
`chosen_latents` tell the property best, and are weighted. The last three are controls."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """How a direction is added.

    Attributes:
        unit_length: whether a sum of concept vectors is scaled to unit length, or added as it is.
            Directions of other kinds have unit length in every form.
        strengths: beta, tried on the tuning split; None: those of `evaluation.strengths`.
    """

    unit_length: bool
    strengths: tuple[float, ...] | None

    def scaled(self, direction: Float[Tensor, " d_in"]) -> Float[Tensor, " d_in"]:
        """The direction as this form adds it."""
        return F.normalize(direction, dim=0) if self.unit_length else direction

    def deviations(self) -> Iterator[str]:
        """Where the form departs from the paper's equation, in words."""
        if self.unit_length:
            yield "the sum of concept vectors has unit length (the paper adds it as it is)"

    def to_json(self) -> dict[str, Any]:
        """The form and its deviation, for a result's details."""
        return {**asdict(self), "deviation": "; ".join(self.deviations()) or "none"}


@dataclass(frozen=True, kw_only=True)
class SpatialForm(Form):
    """How a direction moves an object; `outside`: see `SpatialMove`."""

    outside: Outside

    def change(
        self,
        sae: SparseAutoencoder,
        direction: Float[Tensor, " d_in"],
        region: Region,
        strength: float,
    ) -> Change:
        """The edit."""
        return SpatialMove(
            sae, self.scaled(direction), region, strength=strength, outside=self.outside
        )

    def deviations(self) -> Iterator[str]:
        """Where the form departs from the paper's equation, in words."""
        yield from super().deviations()
        if self.outside == "subtract":
            yield "outside the region minus beta |Z| f (the paper: minus f)"
        elif self.outside == "keep":
            yield "nothing is subtracted outside the region (the paper: minus f)"


@dataclass(frozen=True, kw_only=True)
class GlobalForm(Form):
    """How a direction changes a whole picture; `relative` and `over`: see `GlobalPush`."""

    relative: bool
    over: Over

    def change(
        self, sae: SparseAutoencoder, direction: Float[Tensor, " d_in"], strength: float
    ) -> Change:
        """The edit."""
        return GlobalPush(
            sae, self.scaled(direction), strength=strength, relative=self.relative, over=self.over
        )

    def deviations(self) -> Iterator[str]:
        """Where the form departs from the paper's equation, in words."""
        yield from super().deviations()
        if self.relative:
            yield "beta in lengths of the picture's mean update (the paper: data units)"
        if self.over == "mean":
            yield "|Z| over its mean (the paper: over its sum)"


def random_sets(free: Sequence[int], size: int, draws: int, generator: Any) -> list[list[int]]:
    """`draws` random sets of latents, as many in each as a concept has. No two sets share a latent
    while `free` has enough.

    Args:
        free: the latents to draw from.
        size: of a set; at least 1 is drawn, and at most all of them.
        generator: of numpy.
    """
    order = generator.permutation(list(free)).tolist()
    size = min(max(size, 1), len(order))
    endless = order * (draws * size // len(order) + 1)
    return [endless[n * size : (n + 1) * size] for n in range(draws)]


def draws_met(split: str, *, caption: int, region: int, regions: int, draws: int) -> list[int]:
    """The random draws that meet a case.

    On the split `tune` every case meets one draw, by turns. On `test` every draw meets every
    caption once, in one of the regions, by turns: with 4 regions, 10 draws cost 2.5 times as much
    as one method.

    Example: of 5 draws and 2 regions, on `test` the caption 0 meets the draws 0, 2, 4 in region 0
    and 1, 3 in region 1; the caption 1 the other way round.
    """
    if split == "tune":
        return [(caption * regions + region) % draws]
    return [draw for draw in range(draws) if (caption + draw) % regions == region]
