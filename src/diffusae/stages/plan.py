"""Plan: what a study will take, counted from its configuration, and how long, at rates that are
given or measured by a probe.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from diffusae.activations.settings import ActivationSettings
from diffusae.backbone.settings import ModelSettings
from diffusae.errors import UserError, together
from diffusae.files import atomic_write_json, remove_left_overs
from diffusae.metrics import registry
from diffusae.planning.alternatives import alternatives, with_captions
from diffusae.planning.estimate import StudyEstimate, estimate
from diffusae.planning.gpu_memory import GpuMemory
from diffusae.planning.gpu_tables import fitting, gpu_json, gpu_table
from diffusae.planning.rates import PlanSettings, Rates, measured_rates
from diffusae.planning.sizes import bytes_finished, groups_in
from diffusae.planning.storage import codes_table, ways_of, ways_table
from diffusae.planning.tables import (
    PLAN,
    WIDTH,
    cells_table,
    duration_in_words,
    narrow_table,
    plan_json,
    savings_table,
    sizes_table,
    totals_table,
)
from diffusae.runs.disk import free_bytes, where_writable
from diffusae.study.model import check_hookpoints, describe_model
from diffusae.study.study import Study

if TYPE_CHECKING:
    from diffusae.backbone.describe import Description
    from diffusae.metrics.schedule import MadeAnew

log = logging.getLogger(__name__)


def plan(cfg: DictConfig) -> None:
    """Print what the study will take and what storing less would save, and write both to
    `plan.json` in its directory.
    """
    study, assumed = with_captions(Study(cfg))
    study.check(PlanSettings)
    description = describe_model(ModelSettings.of(cfg), text_layers=study.kind == "text")
    check_hookpoints(study, description)
    if assumed:
        log.warning("%s", assumed)
    groups = groups_in(study)
    counted = estimate(study, description, groups=groups)
    others = alternatives(study, description, groups)
    console = Console()
    console.width = max(console.width, WIDTH)  # numbers that are cut are of no use
    console.print(sizes_table(study, counted))
    if study.kind == "text":
        console.print("tokens are counted as 2 and 1.4 a word: the tokenizer is not loaded")
    rates = measured_rates(study, counted)
    free, already = free_bytes(study.activations), bytes_finished(study.activations)
    if study.held_out.coded:
        already += bytes_finished(study.held_out.activations)
    console.print(cells_table(counted, rates))
    console.print(savings_table(counted, others))
    console.print(totals_table(counted, rates, free=free, already=already))
    memory = _gpu_memory(study, description, counted)
    card = PlanSettings.of(cfg).gpu_gb
    if memory is not None:
        console.print(gpu_table(memory, card))
    if memory is not None and card is not None:
        console.print(fitting(memory, card), soft_wrap=True)
    ways = ways_of(study, description, groups, rates) if study.kind == "generation" else []
    if ways:
        console.print(ways_table(ways, ActivationSettings.of(cfg), rates))
    if study.held_out.coded:
        console.print(codes_table())
    interventions = _made_anew(study)
    if interventions:
        by = "evaluation.test_prompts, random_draws and strengths"
        console.print(_made_table("pictures that interventions make", interventions, rates, by))
    judging = _made_for_claims(study) if PlanSettings.of(cfg).claims else []
    if judging:
        by = "claims.captions and claims.settings"
        console.print(_made_table("pictures that `diffusae claims` makes", judging, rates, by))
    made = plan_json(
        study, counted, others, rates, assumed=bool(assumed), free=free, already=already
    )
    made["interventions"] = [asdict(row) for row in interventions]
    made["claims"] = [asdict(row) for row in judging]
    made["ways"] = [way.to_json() for way in ways]
    made["gpu"] = None if memory is None else gpu_json(memory, card)
    with where_writable(study.directory / PLAN, otherwise="the plan is shown and not kept"):
        remove_left_overs(study.directory)
        atomic_write_json(study.directory / PLAN, made)
        console.print(f"written to {study.directory / PLAN}", soft_wrap=True)


def _gpu_memory(study: Study, description: Description, counted: StudyEstimate) -> GpuMemory | None:
    """The model's GPU memory; None, with a warning, where its configurations do not tell it."""
    try:
        return GpuMemory(study, description, counted)
    except UserError as error:
        if PlanSettings.of(study.cfg).gpu_gb is not None:
            raise
        log.warning("GPU memory is not estimated: %s", error)
        return None


def _made_anew(study: Study) -> list[MadeAnew]:
    """What the interventions make. They are imported, and torch with them, only where there are
    some.
    """
    asked = [*(study.cfg.get("metrics") or ()), *(study.cfg.get("metrics_at") or ())]
    if not any(map(registry.may_count, asked)):
        return []
    from diffusae.metrics.schedule import made_anew

    return made_anew(study)


def _made_for_claims(study: Study) -> list[MadeAnew]:
    """The fresh pictures of the study's claims, and what their metrics make of them.

    Raises:
        UserError: faults of the claims.
    """
    from diffusae.metrics.schedule import MadeAnew, made_for_claims
    from diffusae.summaries.registration import Registered

    registered = Registered.of(study)
    together(registered.faults())
    cells = {cell for claim in registered.claims.stated.values() for cell in claim.cells}
    fresh = MadeAnew("(fresh pictures)", len(cells), registered.pictures, registered.pictures)
    return [fresh, *made_for_claims(study, registered.claims)]


def _made_table(title: str, rows: Sequence[MadeAnew], rates: Rates, by: str) -> Table:
    table = narrow_table(
        ("metric", "cells", "pictures, at most", "whole generations", "time, at most"),
        title=title,
        caption=f"by {by}; without what lies before a window",
    )
    for row in rows:
        seconds = rates.seconds_per_picture
        time = None if seconds is None else seconds * row.generations
        counts = str(row.cells), f"{row.pictures:,}", f"{row.generations:,.0f}"
        table.add_row(row.metric, *counts, duration_in_words(time))
    return table
