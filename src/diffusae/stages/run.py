"""Run: every stage over the whole grid, in one process. Each cell is finished before the next
begins.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from time import monotonic
from typing import Any

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from diffusae.activations.schema import Cell
from diffusae.collecting.random_weights import random_study
from diffusae.concepts.embeddings import WordEmbedding
from diffusae.errors import UserError, together, unknown
from diffusae.jobs.faults import is_users, reason
from diffusae.jobs.outcomes import JobOutcome, print_outcomes
from diffusae.jobs.progress import at_work, progress_bar
from diffusae.labelling.label import label_cell, labelled, word_embedding
from diffusae.metrics.evaluate import METRICS, evaluate_cell, evaluated, kind_faults, needed
from diffusae.runs.lock import directory_lock
from diffusae.runs.wandb_mirror import WandbMirror
from diffusae.stages.annotate import annotate
from diffusae.stages.collect import collect
from diffusae.stages.report import report
from diffusae.stages.train_grid import train_grid
from diffusae.steering.global_directions import edited_studies
from diffusae.stopping import raise_if_received
from diffusae.study.resolvers import expand_home
from diffusae.study.study import Study
from diffusae.training.train import mirror_of, train_cell, trained

log = logging.getLogger(__name__)


def run(cfg: DictConfig) -> None:
    """Carry a whole experiment out. What is finished is skipped; a failing cell does not stop the
    others.

    Raises:
        UserError: after all cells, when some of them failed; the table of all cells says why.
    """
    study = Study(cfg)
    study.check()
    chosen = _chosen_metrics(study)
    with directory_lock(study.directory):
        collect(cfg)
        for beside in _of_random_weights(study, chosen):
            collect(beside.cfg)
        if "annotate" in needed(metric for metrics in chosen.values() for metric in metrics):
            annotate(cfg)
        if cfg.side_by_side:
            train_grid(cfg)
        failures = _cells(study, chosen)
        with at_work("the report"):
            undrawn = _undrawn(cfg, quietly=bool(failures))
    if failures:
        raise UserError(
            f"{len(failures)} of {len(study.grid)} cells failed: {', '.join(failures)}; the same"
            f" command runs only these again{undrawn}"
        )


def _undrawn(cfg: DictConfig, *, quietly: bool) -> str:
    """Draw the report. Where it fails beside cells (`quietly`), why: it must not hide which cells
    failed.
    """
    try:
        report(cfg)
    except Exception as error:
        raise_if_received()
        if not quietly:
            raise
        log.debug("the report failed", exc_info=error)
        return f". The report is not complete: {reason(error)}"
    return ""


def _of_random_weights(study: Study, chosen: Mapping[Cell, Sequence[str]]) -> list[Study]:
    """The collection of random weights beside the study's own, where some cell's knowledge is
    compared with it.
    """
    if not any("knowledge" in metrics for metrics in chosen.values()):
        return []
    settings = _config_of(
        "knowledge", study.part("metric_settings").get("knowledge", {})
    ).evaluation
    return (
        []
        if settings.random_activations is None
        else [random_study(study, settings.random_activations)]
    )


def _cells(study: Study, chosen: Mapping[Cell, Sequence[str]]) -> list[str]:
    """Train, label and evaluate cell by cell; return the names of those that failed.

    The metrics that only some cells have come after all cells are trained: they may edit several
    blocks at once.
    """
    embedding = cache(lambda: word_embedding(study))
    config = cache(lambda metric: _config_of(metric, study.part("metric_settings").get(metric, {})))
    everywhere = list(study.cfg.metrics)
    cells = {
        cell: {metric: _compared(Study(config(metric)).at(cell)) for metric in metrics}
        for cell, metrics in chosen.items()
    }
    # Asked of all cells first: another configuration's result in one of them is told before
    # anything is trained.
    waiting = [studies for studies in cells.values() if not _finished(studies)]
    log.info("%d of %d cells are finished", len(cells) - len(waiting), len(cells))
    outcomes = {
        one.cell_name: JobOutcome(one.cell_name, "skipped") for one in map(_one, cells.values())
    }
    rounds: list[Callable[[Studies], None]] = [
        lambda studies: _carry_out(
            _part(studies, everywhere, True), embedding, label="label" in needed(studies)
        ),
        lambda studies: _evaluate(_part(studies, everywhere, False), embedding),
    ]
    again = [studies for studies in waiting if _part(studies, everywhere, False)]
    with progress_bar("cells", total=len(waiting) + len(again)) as (advance, name):
        for number, carry_out in enumerate(rounds):
            for studies in again if number else waiting:
                cell, begun = _one(studies).cell_name, monotonic()
                before = outcomes[cell]
                if before.outcome != "failed":
                    name(f"{'interventions at ' if number else ''}{cell}")
                    outcomes[cell] = _outcome(
                        cell, lambda work=carry_out, of=studies: work(of), before, begun
                    )
                advance(1)
    print_outcomes(list(outcomes.values()))
    return [cell for cell, each in outcomes.items() if each.outcome == "failed"]


def _outcome(cell: str, work: Callable[[], None], before: JobOutcome, begun: float) -> JobOutcome:
    """What becomes of a cell in one round; a signal to stop is no failure of the cell."""
    outcome, why = "done", ""
    try:
        work()
    except Exception as error:
        raise_if_received()  # what it broke on its way is no failure either
        outcome, why = "failed", reason(error)
        log.error("cell %s failed: %s", cell, why, exc_info=None if is_users(error) else error)
    raise_if_received()
    return JobOutcome(cell, outcome, why, seconds=before.seconds + monotonic() - begun)


Studies = Mapping[str, Study]
"""One cell as a study, once a metric."""


def _part(studies: Studies, everywhere: Sequence[str], common: bool) -> Studies:
    """The metrics that every cell has (`common`), or the others."""
    return {metric: study for metric, study in studies.items() if (metric in everywhere) == common}


def _one(studies: Studies) -> Study:
    """The cell as a study, whatever the metric."""
    return next(iter(studies.values()))


def _finished(studies: Studies) -> bool:
    """Whether a cell has nothing left to do; `studies` holds it once a metric."""
    one = _one(studies)
    edited = [
        each
        for study in studies.values()
        if "blocks" in study.cfg.evaluation
        for each in edited_studies(study)
    ]
    return (
        all(map(trained, [one, *_twin(one), *edited]))
        and ("label" not in needed(studies) or labelled(one))
        and all(evaluated(study, metric) for metric, study in studies.items())
    )


def _carry_out(studies: Studies, embedding: Callable[[], WordEmbedding], *, label: bool) -> None:
    one = _one(studies)
    for twin in _twin(one):
        with mirror_of(twin) as mirror:
            train_cell(twin, mirror, progress=True)
    with mirror_of(one) as mirror:
        train_cell(one, mirror, progress=True)
        if label:
            with at_work("labelling"):
                label_cell(one, mirror, embedding())
        _evaluate_by(studies, mirror, embedding)


def _evaluate(studies: Studies, embedding: Callable[[], WordEmbedding]) -> None:
    if studies:
        with mirror_of(_one(studies)) as mirror:
            _evaluate_by(studies, mirror, embedding)


def _evaluate_by(
    studies: Studies, mirror: WandbMirror, embedding: Callable[[], WordEmbedding]
) -> None:
    for metric, study in studies.items():
        with at_work(f"evaluation={metric}"):
            evaluate_cell(study, mirror, embedding)


def _twin(study: Study) -> list[Study]:
    """The same cell trained with `stability.seed` under a tag of its own; none where the cell is
    not compared.
    """
    if not _is_compared(study):
        return []
    cfg = copy.deepcopy(study.cfg)
    cfg.seed, cfg.sae.tag = cfg.stability.seed, _twin_tag(study)
    return [Study(cfg)]


def _compared(study: Study) -> Study:
    """The study with its twin as the SAE that latent statistics compare with."""
    if _is_compared(study) and study.cfg.evaluation.name == "latents":
        study.cfg.evaluation.other_tag = _twin_tag(study)
    return study


def _is_compared(study: Study) -> bool:
    stability = study.cfg.stability
    return stability.seed is not None and (
        stability.cells is None or study.cell.key in stability.cells
    )


def _twin_tag(study: Study) -> str:
    return f"{study.cfg.sae.tag}-seed{study.cfg.stability.seed}"


def _chosen_metrics(study: Study) -> dict[Cell, list[str]]:
    """The metrics of every cell of the grid: those of `metrics`, and those that `metrics_at` names
    for it.

    Raises:
        UserError: no metrics, unknown ones, a cell that the grid lacks; all in one.
    """
    everywhere, somewhere = list(study.cfg.metrics), study.part("metrics_at")
    keys = [cell.key for cell in study.grid]
    named = {f"metrics_at.{metric}": cells for metric, cells in somewhere.items()}
    faults = [] if everywhere else [f"metrics is empty; name at least one of {', '.join(METRICS)}"]
    for group, metrics in (("metrics", everywhere), ("metrics_at", somewhere)):
        faults += [
            str(unknown(f"metric in {group}:", each, METRICS))
            for each in metrics
            if each not in METRICS
        ]
    for name, cells in {**named, "stability.cells": study.cfg.stability.cells or []}.items():
        faults += [
            str(unknown(f"cell in {name}:", cell, keys)) for cell in cells if cell not in keys
        ]
    if not faults:
        faults += kind_faults(
            study, dict.fromkeys([*everywhere, *(m for m, cells in somewhere.items() if cells)])
        )
    together(faults)
    return {
        cell: [*everywhere, *(metric for metric, cells in somewhere.items() if cell.key in cells)]
        for cell in study.grid
    }


def _config_of(metric: str, settings: Mapping[str, Any]) -> DictConfig:
    """The command's configuration with the option of a metric, and values in the place of its own.

    Raises:
        UserError: a value that the option does not have.
    """
    overrides = HydraConfig.get().overrides.task
    cfg = compose("run", overrides=[*overrides, f"evaluation={metric}"])
    together(
        str(unknown(f"value in metric_settings.{metric}:", name, cfg.evaluation))
        for name in settings
        if name not in cfg.evaluation
    )
    cfg.evaluation.merge_with(dict(settings))
    expand_home(cfg)
    return cfg
