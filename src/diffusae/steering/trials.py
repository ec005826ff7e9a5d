"""The pictures of `diffusae steer`: one prompt as it is, and with a concept edited at several
strengths.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from torch import Tensor

from diffusae.concepts.dictionary import ConceptDictionary
from diffusae.errors import UserError, unknown
from diffusae.files import atomic_path
from diffusae.interventions.edits import Change, GlobalPush
from diffusae.interventions.regions import Region
from diffusae.prompts.prompt_set import Prompt
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.storage import load_sae
from diffusae.steering.edited import EditedPictures, Trial
from diffusae.steering.global_directions import block_directions, factors_of, factors_shown
from diffusae.steering.latent_changes import changes_of_latents, moves
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
    """The configured intervention, on the given latents or on those of the cell's concept."""
    if study.cfg.latents is None and study.cfg.intervention.name == "global":
        return _push_to_style(study, pictures)
    sae, _ = load_sae(study.sae)
    change = _change_of_latents(study, sae)
    sae.to(pictures.device)  # which loads the model: all that can be refused was looked at
    return change


def _change_of_latents(study: Study, sae: SparseAutoencoder) -> Callable[[float], Change]:
    cfg, options = study.cfg, study.part("intervention")
    spatial = options["name"] == "spatial"
    where = {"region": Region(options["region"]), "outside": options["outside"]} if spatial else {}
    latents = list(cfg.latents or [])
    if not latents:
        dictionary = ConceptDictionary.load(study.concepts)
        latents = dictionary.latents_of(cfg.concept)
        if not latents and spatial and (direction := _direction_of_noun(study, sae)) is not None:
            return moves(sae, direction, **where)
        if not latents:
            raise unknown(
                f"concept in {study.cell_name}", cfg.concept, sorted(set(dictionary.table["label"]))
            )
        log.info("%s: latents %s of %s", cfg.concept, _listed(latents), study.cell_name)
    return changes_of_latents(options["name"], sae, latents, **where)


def _push_to_style(study: Study, pictures: EditedPictures) -> Callable[[float], Change]:
    """The global intervention for a value of one of the annotator's factors, such as `night`."""
    cfg, options = study.cfg, study.part("intervention")
    annotator = pictures.annotator
    factors = factors_of(annotator, None)
    factor = next((name for name, values in factors.items() if cfg.concept in values), None)
    if factor is None:
        raise unknown(
            "style", cfg.concept, [value for values in factors.values() for value in values]
        )
    found = block_directions(
        study,
        factors_shown(study, annotator),
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
    sae, _ = load_sae(study.sae)
    sae.to(pictures.device)
    return lambda strength: GlobalPush(sae, direction, strength=strength)


def _direction_of_noun(study: Study, sae: SparseAutoencoder) -> Tensor | None:
    """The direction of the latents that tell a noun from empty ground, as in evaluation=spatial.

    Early dictionaries are small, and may have no entry of the noun. None: no picture shows it.
    """
    concept, n_latents = study.cfg.concept, study.cfg.intervention.n_latents
    direction = directions_of(study, sae, [concept], n_latents=n_latents)["concepts"].get(concept)
    if direction is not None:
        log.info(
            "%s: no entry in the dictionary of %s; the %d latents that tell it from empty ground",
            concept,
            study.cell_name,
            n_latents,
        )
    return direction


def _listed(latents: Sequence[int]) -> str:
    return ", ".join(map(str, latents))


def strengths_of(cfg: DictConfig) -> list[float]:
    """The strengths of the edited pictures: the intervention's one, where it has one, else the
    strip's.
    """
    one = cfg.intervention.get("strength")
    return list(cfg.strengths) if one is None else [one]


def steer_faults(study: Study, by_text: bool) -> list[str]:
    cfg = study.cfg
    faults = [] if is_given(cfg, "prompt") else ["prompt is missing; give prompt='...'"]
    concept = is_given(cfg, "concept")
    if cfg.latents is None and not concept:
        faults.append("concept is missing; give concept='...' or latents=[...]")
    elif cfg.latents is not None:
        faults += latents_faults(cfg)
        if concept:
            faults.append("concept and latents are both given; leave one of them out")
    strengths, beside = strengths_of(cfg), cfg.with_text
    if by_text:
        if cfg.latents is not None:
            faults.append(
                "latents is for other interventions; intervention=text needs a concept of"
                " concept_prompts"
            )
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


def is_given(cfg: DictConfig, name: str) -> bool:
    """Whether a text is given: not missing, null or blank."""
    return not OmegaConf.is_missing(cfg, name) and bool(str(cfg[name] or "").strip())


def latents_faults(cfg: DictConfig) -> list[str]:
    """What `latents` must be: a list of indices, at least one."""
    latents = cfg.latents
    if not OmegaConf.is_list(latents) or not latents:
        return [f"latents={latents} must be a list of latents, such as latents=[373]"]
    whole = all(isinstance(latent, int) and not isinstance(latent, bool) for latent in latents)
    return [] if whole else [f"latents={list(latents)} must hold whole numbers from 0"]


def subject_of(cfg: DictConfig) -> str:
    """What is steered or looked at, in words: the concept, or the latents."""
    return cfg.concept if cfg.latents is None else f"latents {_listed(cfg.latents)}"


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
        words = [
            options.name,
            subject_of(cfg),
            *region,
            *beside,
            *cell,
            cfg.prompt,
            cfg.picture_seed,
        ]
    return file_name(*words)


def file_name(*words: Any) -> str:
    """Words as the name of a directory: lower case, at most 120 characters."""
    return re.sub(r"[^a-z0-9.]+", "-", " ".join(map(str, words)).lower()).strip("-")[:120]


def title_of(cfg: DictConfig) -> str:
    options = cfg.intervention
    if options.name == "text":
        return f"text: {cfg.concept} ({options.layer}), {cfg.prompt!r}"
    where = f" to {options.region}" if options.name == "spatial" else ""
    beside = "" if cfg.with_text.concept is None else f", with text: {cfg.with_text.concept}"
    return (
        f"{options.name}: {subject_of(cfg)}{where} ({cfg.block.name}, t = {cfg.timestep.t:g})"
        f"{beside}, {cfg.prompt!r}"
    )


def save_picture(path: Any, image: np.ndarray) -> None:
    with atomic_path(path) as temporary:
        Image.fromarray(image).save(temporary, format="PNG")
