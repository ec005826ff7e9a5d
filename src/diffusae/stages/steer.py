"""Steer: one prompt, generated as it is and with a concept, or chosen latents, edited at several
strengths.
"""

from __future__ import annotations

import logging

from omegaconf import DictConfig

from diffusae.errors import together
from diffusae.files import atomic_path
from diffusae.interventions.windows import window_at
from diffusae.jobs.out_of_memory import tells_memory
from diffusae.prompts.prompt_set import Prompt
from diffusae.report.strip import strip
from diffusae.runs.record import parent_signature, state
from diffusae.steering.edited import EditedPictures, Place, Trial
from diffusae.steering.text_steering import at_layer
from diffusae.steering.trials import (
    ROOT,
    directory_name,
    in_order,
    save_picture,
    steer_faults,
    strengths_of,
    text_of,
    title_of,
    trials_of,
)
from diffusae.study.study import Study
from diffusae.training.cell import mirror_of

log = logging.getLogger(__name__)


@tells_memory("generation", "model.batch_size")
def steer(cfg: DictConfig) -> bool:
    """Write before.png, one picture a strength, and strip.png; False: they are there already."""
    Study(cfg).check()
    by_text = cfg.intervention.name == "text"
    study = at_layer(Study(cfg), cfg.intervention.layer) if by_text else Study(cfg)
    together(steer_faults(study, by_text))
    strengths, text = strengths_of(cfg), text_of(study, by_text)
    directory = study.directory / "steer" / directory_name(cfg)
    options = {
        name: value for name, value in study.part("intervention").items() if name not in ROOT
    }
    determines = {
        "cell": study.cell.coordinates(),
        "model": study.model_determines(),
        "intervention": options,
        "strengths": strengths,
        "conditionings": list(cfg.conditionings),
        **{name: cfg[name] for name in ("prompt", "concept", "picture_seed", "preserve_norm")},
        **({} if cfg.latents is None else {"latents": list(cfg.latents)}),
    }
    parents: dict[str, str] = {}
    if not by_text:
        parents["train"] = parent_signature(study.sae, stage="train")
        if cfg.latents is None:
            parents["label"] = parent_signature(study.concepts, stage="label")
    if text is not None:
        determines["text"] = text.determines() | (
            {} if by_text else {"strength": cfg.with_text.strength}
        )
        parents["text"] = text.trained()
    if state(directory, determines=determines, parents=parents) == "finished":
        log.info("%s is there already", directory / "strip.png")
        return False
    pictures = EditedPictures(
        study,
        [] if by_text else [Place(study.cell.block, window_at(study.cell.t))],
        conditionings=list(cfg.conditionings),
        preserve_norm=cfg.preserve_norm,
    )
    prompt = Prompt("steered", cfg.prompt, cfg.picture_seed, "steer")
    steered = trials_of(study, pictures, prompt, text, by_text)
    trials = [Trial(prompt), *map(steered, strengths)]
    of_strength = "strength{:+g}" if by_text else "strength-{:g}"
    names = ["before", *map(of_strength.format, strengths)]
    with (
        mirror_of(study) as mirror,
        study.recorded(
            directory, "steer", determines=determines, parents=parents, seed=cfg.picture_seed
        ),
    ):
        made = pictures.pictures(trials, what="pictures")
        for name, image in zip(names, made, strict=True):
            save_picture(directory / f"{name}.png", image)
        shown = in_order(list(zip([0.0, *strengths], names, made, strict=True)))
        with atomic_path(directory / "strip.png") as temporary:
            temporary.write_bytes(strip(shown, title=title_of(cfg)))
        mirror.panel("before_after", shown)
    log.info("wrote %s", directory / "strip.png")
    return True
