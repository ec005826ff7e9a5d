"""The interventions on chosen latents, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from diffusae.errors import UserError, unknown
from diffusae.interventions.edits import (
    Change,
    GlobalPush,
    InRegion,
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
    source: Region | None = None,
    unit_length: bool = True,
) -> Strengthened:
    """The change that an intervention makes with these latents, by strength.

    Args:
        intervention: one of `INTERVENTIONS`. "spatial" adds the latents' direction in a region,
            "global" everywhere; "amplify" and "ablate" multiply their codes by 1 + strength and
            1 - strength; "clamp" sets them to the strength, in data units.
        sae: the autoencoder, where the model is.
        latents: indices of its latents.
        region: of "spatial", where the direction is added; "amplify", "ablate" and "clamp" act in
            it alone, or everywhere where it is None.
        outside, source: of "spatial": see `SpatialMove`.
        unit_length: of "spatial" and "global": see `concept_direction`.

    Raises:
        UserError: an unknown intervention, a latent that the autoencoder does not have, a spatial
            one without a region, a global one with one.
    """
    direction = concept_direction(
        sae, latents, unit_length=unit_length
    )  # refuses latents that there are not
    if intervention == "clamp":
        return lambda strength: _inside(SetLatents(sae, latents, clamp=strength), region)
    if intervention in ("amplify", "ablate"):
        sign = 1 if intervention == "amplify" else -1
        return lambda strength: _inside(
            SetLatents(sae, latents, factor=1 + sign * strength), region
        )
    if intervention == "global":
        if region is not None:
            raise UserError(
                "a global intervention acts everywhere; leave its region out, or take a spatial one"
                " with outside=keep"
            )
        return lambda strength: GlobalPush(sae, direction, strength=strength)
    if intervention != "spatial":
        raise unknown("intervention on latents", intervention, INTERVENTIONS)
    if region is None:
        raise UserError("a spatial intervention needs a region; give intervention.region=...")
    return moves(sae, direction, region, outside, source)


def moves(
    sae: SparseAutoencoder,
    direction: Tensor,
    region: Region,
    outside: Outside,
    source: Region | None = None,
) -> Strengthened:
    """The spatial change along a direction, by strength."""
    return lambda strength: SpatialMove(
        sae, direction, region, strength=strength, outside=outside, source=source
    )


def _inside(change: Change, region: Region | None) -> Change:
    return change if region is None else InRegion(change, region)
