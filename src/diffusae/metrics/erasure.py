"""Erasure at one cell, an autoencoder of a text encoder's layer: is a concept gone, and what went
with it?
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from diffusae.backbone.text_layers import names_text_layer
from diffusae.benchmarks.erasure.attacks import check_attacks, targets_of
from diffusae.benchmarks.erasure.benchmark import ErasureBenchmark
from diffusae.benchmarks.erasure.defended import DefendedPictures
from diffusae.errors import UserError, together, unknown
from diffusae.evaluation.result import Result
from diffusae.interventions import defences as kinds
from diffusae.interventions.safe_guidance import preset
from diffusae.study.study import Study

log = logging.getLogger(__name__)

BASELINES = (kinds.NEGATIVE_PROMPT, kinds.SAFE_GUIDANCE, kinds.WORD_REMOVAL, kinds.ABLATION)


def erasure_rows(study: Study, _embedding: Any) -> list[Result]:
    """Rows of every target; trials.parquet has a row a picture, points.parquet a row a figure of
    the trade-off.
    """
    settings = study.part("evaluation")
    check_settings(study.cell.block, settings)
    targets = list(targets_of(settings))
    pictures = DefendedPictures(study, steps=settings["steps"])
    pictures.require(targets)
    benchmark = ErasureBenchmark(study, settings, pictures)
    results: list[Result] = []
    for target in targets:
        results += benchmark.of(target)
        benchmark.save()  # of the targets so far
    log.info("%d pictures were generated", pictures.made)
    return results


def check_settings(block: str, settings: Mapping[str, Any]) -> None:
    """Refuse what cannot be evaluated, all in one `UserError`."""
    faults = (
        []
        if names_text_layer(block)
        else [
            f"evaluation=erasure steers a text encoder's layer, and block {block} is none; set"
            " collection=text block.name=text_2"
        ]
    )
    faults += [
        f"evaluation.{name}={settings[name]} must be at least 1; raise it"
        for name in ("tune_prompts", "test_prompts")
        if settings[name] < 1
    ]
    if not settings["targets"]:
        faults.append("evaluation.targets is empty; name a noun or a style to erase")
    faults += [
        f"evaluation.targets.{target} has no concept prompt; say what it is called"
        for target, prompts in targets_of(settings).items()
        if not prompts
    ]
    faults += [
        str(unknown("defence in evaluation.defences:", each, BASELINES))
        for each in settings["defences"]
        if each not in BASELINES
    ]
    strengths = settings["strengths"]
    faults += [
        f"evaluation.strengths.{name}={strengths[name]} must hold numbers from 0; give some"
        for name in (kinds.TEXT_EDIT, kinds.ABLATION)
        if not strengths[name] or min(strengths[name]) < 0
    ]
    for name in strengths[kinds.SAFE_GUIDANCE]:
        try:
            preset(name)
        except UserError as error:
            faults.append(str(error))
    together([*faults, *check_attacks(settings)])
