"""One picture again, with latents of a cell edited while it is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8

from diffusae.backbone.hookpoints import execution_device
from diffusae.errors import UserError, unknown
from diffusae.exploring.cells import Latents
from diffusae.exploring.recording import RecordedRun
from diffusae.interventions.regions import NAMED, Region
from diffusae.interventions.windows import window_at
from diffusae.prompts.prompt_set import Prompt
from diffusae.report.strip import StripFigure, strip_figure
from diffusae.steering.edited import EditedPictures, Place, Trial
from diffusae.steering.latent_changes import INTERVENTIONS, changes_of_latents


@dataclass(frozen=True)
class SteeredPicture:
    """A picture before and after an edit, both uint8 [height, width, 3].

    Attributes:
        run: the generation that was repeated.
        latents: what was edited.
        edit: the intervention in words, such as "spatial to top_left, strength 3".
        picture: the edited picture.
    """

    run: RecordedRun
    latents: Latents
    edit: str
    picture: UInt8[np.ndarray, "height width 3"]

    def plot(self) -> StripFigure:
        """The two pictures side by side."""
        title = f"{self.latents.name} of {self.latents.cell.name}: {self.edit}"
        shown = [("before", self.run.picture), ("after", self.picture)]
        return strip_figure(shown, title=title)


def steer_latents(
    pipe: Any,
    run: RecordedRun,
    latents: Latents,
    *,
    strength: float,
    region: str | None,
    intervention: str,
) -> SteeredPicture:
    """Make the run's picture again with these latents edited in the window of their cell's t.

    Raises:
        UserError: an unknown intervention or region, a strength that the intervention does not
            take, a cell without autoencoder.
    """
    if intervention not in INTERVENTIONS:
        raise unknown("intervention", intervention, INTERVENTIONS)
    if (intervention == "spatial") != (region is not None):
        raise UserError(
            f"intervention={intervention!r} with region={region!r}: a spatial one needs a region"
            f" ({', '.join(NAMED)}, or a painted PNG's path), the others take none"
        )
    cell = latents.cell
    change = changes_of_latents(
        intervention,
        cell.sae.to(execution_device(pipe)),
        latents.indices,
        region=None if region is None else Region(region),
    )(strength)
    pictures = EditedPictures(
        cell.settings,
        [Place(cell.block, window_at(cell.t))],
        conditionings=[cell.conditioning],
        pipe=pipe,
    )
    prompt = Prompt("steered", run.prompt, run.seed, "steer")
    (picture,) = pictures.pictures([Trial(prompt, (change,))], what="pictures")
    where = "" if region is None else f" to {region}"
    return SteeredPicture(run, latents, f"{intervention}{where}, strength {strength:g}", picture)
