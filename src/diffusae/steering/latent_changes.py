"""The interventions on chosen latents, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from diffusae.errors import UserError, unknown
from diffusae.interventions.edits import (
    Change,
    GlobalPush,
    Outside,
    SetLatents,
    SpatialMove,
    concept_direction,
)
from diffusae.interventions.regions import Region
from diffusae.sae.autoencoder import SparseAutoencoder

INTERVENTIONS = ("spatial", "global", "amplify", "ablate", "clamp")

Strengthened = Callable[[float], Change]
"""The change of a strength."""


def changes_of_latents(
    intervention: str,
    sae: SparseAutoencoder,
    latents: Sequence[int],
    *,
    region: Region | None = None,
    outside: Outside = "subtract",
    unit_length: bool = True,
) -> Strengthened:
    """The change that an intervention makes with these latents, by strength.

    Args:
        intervention: one of `INTERVENTIONS`. "spatial" adds the latents' direction in a region,
            "global" everywhere; "amplify" and "ablate" multiply their codes by 1 + strength and
            1 - strength; "clamp" sets them to the strength, in data units.
        sae: the autoencoder, where the model is.
        latents: indices of its latents.
        region, outside: of "spatial": see `SpatialMove`.
        unit_length: of "spatial" and "global": see `concept_direction`.

    Raises:
        UserError: an unknown intervention, a latent that the autoencoder does not have, a spatial
            one without a region.
    """
    direction = concept_direction(
        sae, latents, unit_length=unit_length
    )  # refuses latents that there are not
    if intervention == "clamp":
        return lambda strength: SetLatents(sae, latents, clamp=strength)
    if intervention in ("amplify", "ablate"):
        sign = 1 if intervention == "amplify" else -1
        return lambda strength: SetLatents(sae, latents, factor=1 + sign * strength)
    if intervention == "global":
        return lambda strength: GlobalPush(sae, direction, strength=strength)
    if intervention != "spatial":
        raise unknown("intervention on latents", intervention, INTERVENTIONS)
    if region is None:
        raise UserError("a spatial intervention needs a region; give intervention.region=...")
    return moves(sae, direction, region, outside)


def moves(
    sae: SparseAutoencoder, direction: Tensor, region: Region, outside: Outside
) -> Strengthened:
    """The spatial change along a direction, by strength."""
    return lambda strength: SpatialMove(sae, direction, region, strength=strength, outside=outside)
