"""Steer: one prompt, generated as it is and with a concept edited at several strengths."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from diffusae.concepts.dictionary import ConceptDictionary
from diffusae.errors import UserError, together, unknown
from diffusae.files import atomic_path
from diffusae.interventions.edits import Change, GlobalPush, SetLatents, SpatialMove, concept_direction
from diffusae.interventions.regions import Region
from diffusae.interventions.windows import window_at
from diffusae.prompts.prompt_set import Prompt
from diffusae.report.strip import strip
from diffusae.runs.lock import directory_lock
from diffusae.runs.record import parent_signature, run_record, state
from diffusae.sae.storage import load_sae
from diffusae.stages.edited import EditedPictures, Place, Trial
from diffusae.stages.evaluate_global import block_directions, factors_of, factors_shown
from diffusae.stages.study import Study
from diffusae.stages.train import mirror_of

log = logging.getLogger(__name__)

Strengthened = Callable[[float], Change]
"""The change of a strength."""


def steer(cfg: DictConfig) -> bool:
    """Write before.png, one picture a strength, and strip.png; False: they are there already."""
    study = Study(cfg)
    study.check()
    together(_faults(cfg))
    directory = study.directory / "steer" / _name(cfg)
    determines = {
        "cell": study.cell.coordinates(),
        "model": study.model_determines(),
        **{name: study.part(name) for name in ("intervention", "strengths", "conditionings")},
        **{name: cfg[name] for name in ("prompt", "concept", "picture_seed", "preserve_norm")},
    }
    parents = {
        stage: parent_signature(path, stage=stage) for stage, path in (("train", study.sae), ("label", study.concepts))
    }  # fmt: skip
    if state(directory, determines=determines, parents=parents) == "finished":
        log.info("%s is there already", directory / "strip.png")
        return False
    pictures = EditedPictures(
        study,
        [Place(study.cell.block, window_at(study.cell.t))],
        conditionings=list(cfg.conditionings),
        preserve_norm=cfg.preserve_norm,
    )
    change = _change(study, pictures)
    prompt = Prompt("steered", cfg.prompt, cfg.picture_seed, "steer")
    trials = [Trial(prompt), *(Trial(prompt, (change(strength),)) for strength in cfg.strengths)]
    with (
        mirror_of(study) as mirror,
        directory_lock(directory),
        run_record(
            directory,
            stage="steer",
            config=study.config(),
            determines=determines,
            parents=parents,
            seed=cfg.picture_seed,
        ),
    ):
        made = [image for image, _ in pictures.make(trials, what="pictures")]
        names = ["before", *(f"strength-{strength:g}" for strength in cfg.strengths)]
        for name, image in zip(names, made, strict=True):
            _save(directory / f"{name}.png", image)
        with atomic_path(directory / "strip.png") as temporary:
            temporary.write_bytes(strip(list(zip(names, made, strict=True)), title=_title(cfg)))
        mirror.panel("before_after", list(zip(names, made, strict=True)))
    log.info("wrote %s", directory / "strip.png")
    return True


def _change(study: Study, pictures: EditedPictures) -> Strengthened:
    """The intervention that the configuration names, for the cell's concept."""
    cfg, options = study.cfg, study.part("intervention")
    sae, _ = load_sae(study.sae)
    if options["name"] == "global":
        annotator = pictures.annotator
        factors = factors_of(annotator, None)
        factor = next((name for name, values in factors.items() if cfg.concept in values), None)
        if factor is None:
            raise unknown("style", cfg.concept, [value for values in factors.values() for value in values])
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
                f"no picture of the split dictionary shows {cfg.concept}, or all do; collect more pictures"
            )
        sae.to(pictures.device)
        return lambda strength: GlobalPush(sae, direction, strength=strength)
    dictionary = ConceptDictionary.load(study.concepts)
    latents = dictionary.latents_of(cfg.concept)
    if not latents:
        raise unknown(f"concept in {study.cell_name}", cfg.concept, sorted(set(dictionary.table["label"])))
    log.info("%s: latents %s of %s", cfg.concept, ", ".join(map(str, latents)), study.cell_name)
    sae.to(pictures.device)
    if options["name"] == "spatial":
        region, direction = Region(options["region"]), concept_direction(sae, latents)
        return lambda strength: SpatialMove(
            sae, direction, region, strength=strength, outside=options["outside"]
        )
    if options["name"] == "clamp":
        return lambda strength: SetLatents(sae, latents, clamp=strength)
    sign = -1 if options["name"] == "ablate" else 1
    return lambda strength: SetLatents(sae, latents, factor=1 + sign * strength)


def _faults(cfg: DictConfig) -> list[str]:
    faults = [
        f"{name} is missing; give {name}='...'"
        for name in ("prompt", "concept")
        if OmegaConf.is_missing(cfg, name) or not str(cfg[name]).strip()
    ]
    if not cfg.strengths or min(cfg.strengths) <= 0:
        faults.append(f"strengths={list(cfg.strengths)} must hold numbers above 0; give some")
    return faults


def _name(cfg: DictConfig) -> str:
    """A directory's name that says what is in it."""
    region = [cfg.intervention.region] if cfg.intervention.name == "spatial" else []
    cell = [cfg.block.name, f"t{cfg.timestep.t:.2f}"]
    words = [cfg.intervention.name, cfg.concept, *region, *cell, cfg.prompt, cfg.picture_seed]
    return re.sub(r"[^a-z0-9.]+", "-", " ".join(map(str, words)).lower()).strip("-")[:120]


def _title(cfg: DictConfig) -> str:
    where = f" to {cfg.intervention.region}" if cfg.intervention.name == "spatial" else ""
    return f"{cfg.intervention.name}: {cfg.concept}{where} ({cfg.block.name}, t = {cfg.timestep.t:g}), {cfg.prompt!r}"


def _save(path: Any, image: np.ndarray) -> None:
    with atomic_path(path) as temporary:
        Image.fromarray(image).save(temporary, format="PNG")
