"""Steer: one prompt, generated as it is and with a concept, or chosen latents, edited at several
strengths.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from diffusae.errors import together
from diffusae.files import atomic_path
from diffusae.interventions.windows import window_at
from diffusae.jobs.out_of_memory import tells_memory
from diffusae.prompts.prompt_set import Prompt
from diffusae.report.strip import strip
from diffusae.runs.record import DamagedRecord, parent_signature, read_record, state
from diffusae.stages.steer_list import steer_list
from diffusae.steering.edited import EditedPictures, Place, Trial
from diffusae.steering.settings import Steering, kinds_of
from diffusae.steering.text_steering import Steered, at_layer
from diffusae.steering.trials import ROOT, in_order, save_picture, steer_faults, text_of, trials_of
from diffusae.study.study import Study
from diffusae.training.cell import mirror_of

log = logging.getLogger(__name__)


@tells_memory("generation", "model.batch_size")
def steer(cfg: DictConfig) -> bool:
    """Write before.png, one picture a strength, and strip.png; False: they are there already.

    With an edit list: before.png, after.png and strip.png.
    """
    if cfg.edits is not None:
        return steer_list(cfg)
    Study(cfg).check(*kinds_of(cfg))
    steering = Steering.of(cfg)
    picture, by_text = steering.picture, steering.text
    study = Study(cfg) if by_text is None else at_layer(Study(cfg), by_text.layer)
    together(steer_faults(study, steering))
    strengths, text = steering.strengths, text_of(study, steering)
    directory = _directory(study, steering)
    determines, parents = _determines(study, steering, text), _parents(study, steering, text)
    if state(directory, determines=determines, parents=parents) == "finished":
        log.info("%s is there already", directory / "strip.png")
        return False
    pictures = EditedPictures(
        study,
        [Place(study.cell.block, window_at(study.cell.t))] if by_text is None else [],
        conditionings=picture.conditionings,
        preserve_norm=picture.preserve_norm,
    )
    prompt = Prompt("steered", picture.prompt, picture.picture_seed, "steer")
    steered = trials_of(study, steering, pictures, prompt, text)
    trials = [Trial(prompt), *map(steered, strengths)]
    of_strength = "strength-{:g}" if by_text is None else "strength{:+g}"
    names = ["before", *map(of_strength.format, strengths)]
    with (
        mirror_of(study) as mirror,
        study.recorded(
            directory, "steer", determines=determines, parents=parents, seed=picture.picture_seed
        ),
    ):
        made = pictures.pictures(trials, what="pictures")
        for name, image in zip(names, made, strict=True):
            save_picture(directory / f"{name}.png", image)
        shown = in_order(list(zip([0.0, *strengths], names, made, strict=True)))
        with atomic_path(directory / "strip.png") as temporary:
            temporary.write_bytes(strip(shown, title=steering.title(study.cell)))
        mirror.panel("before_after", shown)
    log.info("wrote %s", directory / "strip.png")
    return True


def _directory(study: Study, steering: Steering) -> Path:
    """Where the pictures go. Those of this autoencoder that were made before names had its tag stay
    where they are."""
    root, cell, tag = study.directory / "steer", study.cell, study.cfg.sae.tag
    earlier = root / steering.directory_name(cell, "")
    with suppress(DamagedRecord):
        record = read_record(earlier)
        coordinates = None if record is None else record.determines.get("cell")
        if record and coordinates == cell.coordinates() and record.config["sae"]["tag"] == tag:
            return earlier
    return root / steering.directory_name(cell, tag)


def _determines(study: Study, steering: Steering, text: Steered | None) -> dict[str, Any]:
    """What decides the pictures."""
    picture, options = steering.picture, study.part("intervention")
    determines: dict[str, Any] = {
        "cell": study.cell.coordinates(),
        "model": study.model_determines(),
        "intervention": {name: value for name, value in options.items() if name not in ROOT},
        "strengths": steering.strengths,
        "conditionings": picture.conditionings,
        "prompt": picture.prompt,
        "concept": picture.concept,
        "picture_seed": picture.picture_seed,
        "preserve_norm": picture.preserve_norm,
    }
    if picture.latents is not None:
        determines["latents"] = picture.latents
    if text is not None:
        beside = {"strength": steering.beside.strength} if steering.text is None else {}
        determines["text"] = text.determines() | beside
    return determines


def _parents(study: Study, steering: Steering, text: Steered | None) -> dict[str, str]:
    """The signatures of the autoencoders, and of the dictionary where a concept is looked up."""
    parents = {} if text is None else {"text": text.trained()}
    if steering.text is None:
        parents["train"] = parent_signature(study.sae, stage="train")
        if steering.picture.latents is None:
            parents["label"] = parent_signature(study.concepts, stage="label")
    return parents
