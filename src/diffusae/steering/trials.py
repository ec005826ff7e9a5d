"""The pictures of `diffusae steer`: one prompt as it is, and with a concept edited at several
strengths.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from diffusae.concepts.dictionary import ConceptDictionary
from diffusae.errors import UserError, unknown
from diffusae.files import atomic_path
from diffusae.interventions.edits import Change, GlobalPush, Outside
from diffusae.interventions.regions import Region
from diffusae.prompts.prompt_set import Prompt
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.storage import load_sae
from diffusae.steering.edited import EditedPictures, Trial
from diffusae.steering.global_directions import block_directions, factors_of, factors_shown
from diffusae.steering.latent_changes import changes_of_latents, moves
from diffusae.steering.settings import (
    Global,
    Intervention,
    Spatial,
    Steering,
    SteerSettings,
    listed,
)
from diffusae.steering.spatial_directions import directions_of
from diffusae.steering.text_steering import Steered, at_layer, faults_of
from diffusae.study.study import Study

log = logging.getLogger(__name__)

Strengthened = Callable[[float], Trial]
"""The picture of a strength."""

ROOT = ("strengths", "conditionings", "strength")
"""What of an intervention's option the command's own values replace."""


def in_order(made: list[tuple[float, str, np.ndarray]]) -> list[tuple[str, np.ndarray]]:
    """Pictures by rising strength: what is steered away, the picture as it is (0), what is steered
    towards.
    """
    return [(name, image) for _, name, image in sorted(made, key=lambda picture: picture[0])]


def text_of(study: Study, steering: Steering) -> Steered | None:
    """What is steered through the text encoder: by itself, beside another intervention, or
    nothing.
    """
    picture, beside = steering.picture, steering.beside
    if steering.text is not None:
        return Steered(study, str(picture.concept), tuple(picture.conditionings))
    if beside.concept is None:
        return None
    layer = at_layer(study, beside.layer, name=beside.name, sae_tag=beside.sae_tag)
    return Steered(layer, beside.concept, tuple(beside.conditionings))


def trials_of(
    study: Study, steering: Steering, pictures: EditedPictures, prompt: Prompt, text: Steered | None
) -> Strengthened:
    """The edited picture of a strength."""
    edit = None if text is None else text.edits(pictures.device)
    if steering.text is not None:
        assert edit is not None
        return lambda strength: Trial(prompt, text=(edit(strength),))
    change = _change(study, steering, pictures)
    beside = () if edit is None else (edit(steering.beside.strength),)
    return lambda strength: Trial(prompt, (change(strength),), beside)


def _change(
    study: Study, steering: Steering, pictures: EditedPictures
) -> Callable[[float], Change]:
    """The configured intervention, on the given latents or on those of the cell's concept."""
    picture, intervention = steering.picture, steering.intervention
    if picture.latents is None and isinstance(intervention, Global):
        return _push_to_style(study, str(picture.concept), intervention, pictures)
    sae, _ = load_sae(study.sae)
    change = _change_of_latents(study, picture, intervention, sae)
    sae.to(pictures.device)  # which loads the model: all that can be refused was looked at
    return change


def _change_of_latents(
    study: Study, picture: SteerSettings, intervention: Intervention, sae: SparseAutoencoder
) -> Callable[[float], Change]:
    spatial = intervention if isinstance(intervention, Spatial) else None
    region = None if spatial is None else Region(spatial.region)
    outside: Outside = "subtract" if spatial is None else spatial.outside
    unit_length = spatial is None or spatial.unit_length
    latents = picture.latents
    if latents is None:
        concept, dictionary = str(picture.concept), ConceptDictionary.load(study.concepts)
        latents = dictionary.latents_of(concept)
        if not latents and spatial is not None and region is not None:
            direction = _direction_of_noun(study, sae, concept, spatial.n_latents)
            if direction is not None:
                return moves(sae, direction, region, outside)
        if not latents:
            labels = sorted(set(dictionary.table["label"]))
            raise unknown(f"concept in {study.cell_name}", concept, labels)
        log.info("%s: latents %s of %s", concept, listed(latents), study.cell_name)
    return changes_of_latents(
        intervention.name, sae, latents, region=region, outside=outside, unit_length=unit_length
    )


def _push_to_style(
    study: Study, style: str, settings: Global, pictures: EditedPictures
) -> Callable[[float], Change]:
    """The global intervention for a value of one of the annotator's factors, such as `night`."""
    direction = style_direction(
        study,
        style,
        pictures.annotator,
        n_latents=settings.n_latents,
        under_objects=settings.under_objects,
    )
    sae, _ = load_sae(study.sae)
    sae.to(pictures.device)
    return lambda strength: GlobalPush(sae, direction, strength=strength)


def style_direction(
    study: Study, style: str, annotator: Any, *, n_latents: int, under_objects: Sequence[str]
) -> Tensor:
    """The direction of the cell's latents that tell a style best, [d_in], of unit length.

    Args:
        style: a value of one of the annotator's factors, such as `night`.
        n_latents, under_objects: see `block_directions`.

    Raises:
        UserError: no factor has the value, or no picture of the split dictionary shows it.
    """
    factors = factors_of(annotator, None)
    factor = next((name for name, values in factors.items() if style in values), None)
    if factor is None:
        raise unknown("style", style, [value for values in factors.values() for value in values])
    of_block = block_directions(
        study,
        factors_shown(study, annotator),
        {factor: factors[factor]},
        n_latents=n_latents,
        under_objects=under_objects,
    )
    directions = of_block.directions.get(("chosen_latents", factor, style))
    if directions is None:
        raise UserError(
            f"no picture of the split dictionary shows {style}, or all do; collect more pictures"
        )
    return directions[0]


def _direction_of_noun(
    study: Study, sae: SparseAutoencoder, concept: str, n_latents: int
) -> Tensor | None:
    """The direction of the latents that tell a noun from empty ground, as in evaluation=spatial.

    Early dictionaries are small, and may have no entry of the noun. None: no picture shows it.
    """
    of_noun = directions_of(study, sae, [concept], n_latents=n_latents)["chosen_latents"]
    if concept in of_noun:
        log.info(
            "%s: no entry in the dictionary of %s; the %d latents that tell it from empty ground",
            concept,
            study.cell_name,
            n_latents,
        )
        return of_noun[concept][0]
    return None


def steer_faults(study: Study, steering: Steering) -> Iterator[str]:
    """What is wrong with settings together; each by itself is sound."""
    picture, text, beside = steering.picture, steering.text, steering.beside
    if text is not None:
        if picture.latents is not None or picture.concept is None:
            yield (
                "latents is for other interventions; intervention=text needs a concept of"
                " concept_prompts"
            )
        else:
            yield from faults_of(
                study,
                layer=text.layer,
                concept=picture.concept,
                strengths=steering.strengths,
                conditionings=picture.conditionings,
            )
        if beside.concept is not None:
            yield "with_text is for other interventions; leave it out with intervention=text"
        if picture.preserve_norm:
            yield "preserve_norm=true is for updates; leave it out with intervention=text"
        return
    if (fault := study.text_fault) and (steering.region or picture.latents is None):
        yield (
            f"{fault}, or steer latents=[...] everywhere: intervention=global, amplify, ablate or"
            " clamp"
        )
    if min(steering.strengths, default=0) <= 0:
        yield f"strengths={steering.strengths} must hold numbers above 0; give some"
    if beside.concept is not None:
        yield from faults_of(
            study,
            layer=beside.layer,
            concept=beside.concept,
            strengths=[beside.strength],
            conditionings=beside.conditionings,
        )


def save_picture(path: Any, image: np.ndarray) -> None:
    with atomic_path(path) as temporary:
        Image.fromarray(image).save(temporary, format="PNG")
