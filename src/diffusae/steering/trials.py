"""The pictures of `diffusae steer`: one prompt as it is, and with a concept edited at several
strengths.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from torch import Tensor

from diffusae.concepts.dictionary import ConceptDictionary
from diffusae.errors import UserError, unknown
from diffusae.files import atomic_path
from diffusae.interventions.edits import (
    Change,
    GlobalPush,
    SetLatents,
    SpatialMove,
    concept_direction,
)
from diffusae.interventions.regions import Region
from diffusae.prompts.prompt_set import Prompt
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.storage import load_sae
from diffusae.steering.edited import EditedPictures, Trial
from diffusae.steering.global_directions import block_directions, factors_of, factors_shown
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
    return [(name, image) for _, name, image in sorted(made, key=lambda each: each[0])]


def text_of(study: Study, by_text: bool) -> Steered | None:
    """What is steered through the text encoder: by itself, beside another intervention, or
    nothing.
    """
    cfg, beside = study.cfg, study.cfg.with_text
    if by_text:
        return Steered(study, cfg.concept, tuple(cfg.conditionings))
    if beside.concept is None:
        return None
    there = at_layer(study, beside.layer, name=beside.name, sae_tag=beside.sae_tag)
    return Steered(there, beside.concept, tuple(beside.conditionings))


def trials_of(
    study: Study, pictures: EditedPictures, prompt: Prompt, text: Steered | None, by_text: bool
) -> Strengthened:
    """The edited picture of a strength."""
    edit = None if text is None else text.edits(pictures.device)
    if by_text:
        assert edit is not None
        return lambda strength: Trial(prompt, text=(edit(strength),))
    change = _change(study, pictures)
    beside = () if edit is None else (edit(study.cfg.with_text.strength),)
    return lambda strength: Trial(prompt, (change(strength),), beside)


def _change(study: Study, pictures: EditedPictures) -> Callable[[float], Change]:
    """The intervention that the configuration names, for the cell's concept."""
    cfg, options = study.cfg, study.part("intervention")
    sae, _ = load_sae(study.sae)
    if options["name"] == "global":
        annotator = pictures.annotator
        factors = factors_of(annotator, None)
        factor = next((name for name, values in factors.items() if cfg.concept in values), None)
        if factor is None:
            raise unknown(
                "style", cfg.concept, [value for values in factors.values() for value in values]
            )
        shown = factors_shown(study, annotator)
        found = block_directions(
            study,
            shown,
            {factor: factors[factor]},
            n_latents=options["n_latents"],
            under_objects=options["under_objects"],
        )
        direction = found.directions.get(("concepts", factor, cfg.concept))
        if direction is None:
            raise UserError(
                f"no picture of the split dictionary shows {cfg.concept}, or all do; collect more"
                " pictures"
            )
        sae.to(pictures.device)
        return lambda strength: GlobalPush(sae, direction, strength=strength)
    dictionary = ConceptDictionary.load(study.concepts)
    latents = dictionary.latents_of(cfg.concept)
    if not latents and options["name"] == "spatial":
        # Early dictionaries are small; the latents that tell the noun from empty ground serve, as
        # in evaluation=spatial.
        told = directions_of(study, sae, [cfg.concept], n_latents=options["n_latents"])["concepts"]
        if cfg.concept in told:
            log.info(
                "%s: no entry in the dictionary of %s; the %d latents that tell it from empty"
                " ground",
                cfg.concept,
                study.cell_name,
                options["n_latents"],
            )
            sae.to(pictures.device)
            return _moves(sae, told[cfg.concept], options)
    if not latents:
        raise unknown(
            f"concept in {study.cell_name}", cfg.concept, sorted(set(dictionary.table["label"]))
        )
    log.info("%s: latents %s of %s", cfg.concept, ", ".join(map(str, latents)), study.cell_name)
    sae.to(pictures.device)
    if options["name"] == "spatial":
        return _moves(sae, concept_direction(sae, latents), options)
    if options["name"] == "clamp":
        return lambda strength: SetLatents(sae, latents, clamp=strength)
    sign = -1 if options["name"] == "ablate" else 1
    return lambda strength: SetLatents(sae, latents, factor=1 + sign * strength)


def _moves(
    sae: SparseAutoencoder, direction: Tensor, options: Mapping[str, Any]
) -> Callable[[float], Change]:
    region = Region(options["region"])
    return lambda strength: SpatialMove(
        sae, direction, region, strength=strength, outside=options["outside"]
    )


def strengths_of(cfg: DictConfig) -> list[float]:
    """The strengths of the edited pictures: the intervention's one, where it has one, else the
    strip's.
    """
    one = cfg.intervention.get("strength")
    return list(cfg.strengths) if one is None else [one]


def steer_faults(study: Study, by_text: bool) -> list[str]:
    cfg = study.cfg
    faults = [
        f"{name} is missing; give {name}='...'"
        for name in ("prompt", "concept")
        if OmegaConf.is_missing(cfg, name) or not str(cfg[name]).strip()
    ]
    strengths, beside = strengths_of(cfg), cfg.with_text
    if by_text:
        if not faults:
            conditionings = list(cfg.conditionings)
            faults += faults_of(
                study,
                layer=cfg.intervention.layer,
                concept=cfg.concept,
                strengths=strengths,
                conditionings=conditionings,
            )
        if beside.concept is not None:
            faults.append(
                "with_text is for other interventions; leave it out with intervention=text"
            )
        if cfg.preserve_norm:
            faults.append("preserve_norm=true is for updates; leave it out with intervention=text")
        return faults
    if not strengths or min(strengths) <= 0:
        faults.append(f"strengths={strengths} must hold numbers above 0; give some")
    if beside.concept is not None:
        conditionings = list(beside.conditionings)
        faults += faults_of(
            study,
            layer=beside.layer,
            concept=beside.concept,
            strengths=[beside.strength],
            conditionings=conditionings,
        )
    return faults


def directory_name(cfg: DictConfig) -> str:
    """A directory's name that says what is in it."""
    options = cfg.intervention
    if options.name == "text":
        one = [] if options.strength is None else [f"lambda{options.strength:g}"]
        words = [options.name, cfg.concept, *one, options.layer, cfg.prompt, cfg.picture_seed]
    else:
        region = [options.region] if options.name == "spatial" else []
        beside = [] if cfg.with_text.concept is None else ["with", cfg.with_text.concept]
        cell = [cfg.block.name, f"t{cfg.timestep.t:.2f}"]
        words = [options.name, cfg.concept, *region, *beside, *cell, cfg.prompt, cfg.picture_seed]
    return re.sub(r"[^a-z0-9.]+", "-", " ".join(map(str, words)).lower()).strip("-")[:120]


def title_of(cfg: DictConfig) -> str:
    options = cfg.intervention
    if options.name == "text":
        return f"text: {cfg.concept} ({options.layer}), {cfg.prompt!r}"
    where = f" to {options.region}" if options.name == "spatial" else ""
    beside = "" if cfg.with_text.concept is None else f", with text: {cfg.with_text.concept}"
    return (
        f"{options.name}: {cfg.concept}{where} ({cfg.block.name}, t = {cfg.timestep.t:g}){beside},"
        f" {cfg.prompt!r}"
    )


def save_picture(path: Any, image: np.ndarray) -> None:
    with atomic_path(path) as temporary:
        Image.fromarray(image).save(temporary, format="PNG")
