"""Run: every stage over the whole grid, in one process. Each cell is finished before the next begins."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from time import monotonic

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from diffusae.activations.schema import Cell
from diffusae.concepts.embeddings import WordEmbedding
from diffusae.errors import UserError, together, unknown
from diffusae.runs.lock import directory_lock
from diffusae.stages.annotate import annotate
from diffusae.stages.collect import collect
from diffusae.stages.evaluate import METRICS, evaluate_cell, evaluated
from diffusae.stages.label import label_cell, labelled, word_embedding
from diffusae.stages.outcomes import Outcome, print_outcomes, reason
from diffusae.stages.progress import progress_bar
from diffusae.stages.report import report
from diffusae.stages.study import Study
from diffusae.stages.train import mirror_of, train_cell, trained

log = logging.getLogger(__name__)


def run(cfg: DictConfig) -> None:
    """Carry a whole experiment out. What is finished is skipped; a failing cell does not stop the others.

    Raises:
        UserError: after all cells, when some of them failed; the table of all cells says why.
    """
    study = Study(cfg)
    study.check()
    chosen = _chosen_metrics(study)
    with directory_lock(study.directory):
        collect(cfg)
        annotate(cfg)
        failures = _cells(study, chosen)
        report(cfg)
    if failures:
        raise UserError(
            f"{len(failures)} of {len(study.grid)} cells failed: {', '.join(failures)}; the same command runs only "
            "these again"
        )


def _cells(study: Study, chosen: Mapping[Cell, Sequence[str]]) -> list[str]:
    """Train, label and evaluate cell by cell; return the names of those that failed."""
    embedding = cache(lambda: word_embedding(study))
    config = cache(_config_of)
    cells = {
        cell: {metric: at(cell, config(metric)) for metric in metrics} for cell, metrics in chosen.items()
    }
    # Asked of all cells first: another configuration's result in one of them is told before anything is trained.
    waiting = [studies for studies in cells.values() if not _finished(studies)]
    log.info("%d of %d cells are finished", len(cells) - len(waiting), len(cells))
    outcomes = {one.cell_name: Outcome(one.cell_name, "skipped") for one in map(_one, cells.values())}
    with progress_bar("cells", total=len(waiting)) as (advance, name):
        for studies in waiting:
            cell, begun = _one(studies).cell_name, monotonic()
            name(f"cell {cell}")
            try:
                _carry_out(studies, embedding)
                outcomes[cell] = Outcome(cell, "done", seconds=monotonic() - begun)
            except Exception as error:
                log.exception("cell %s failed", cell)
                outcomes[cell] = Outcome(cell, "failed", reason(error), seconds=monotonic() - begun)
            advance(1)
    print_outcomes(list(outcomes.values()))
    return [cell for cell, each in outcomes.items() if each.outcome == "failed"]


def _one(studies: Mapping[str, Study]) -> Study:
    """The cell as a study, whatever the metric."""
    return next(iter(studies.values()))


def _finished(studies: Mapping[str, Study]) -> bool:
    """Whether a cell has nothing left to do; `studies` holds it once a metric."""
    one = _one(studies)
    return (
        trained(one) and labelled(one) and all(evaluated(study, metric) for metric, study in studies.items())
    )


def _carry_out(studies: Mapping[str, Study], embedding: Callable[[], WordEmbedding]) -> None:
    one = _one(studies)
    with mirror_of(one) as mirror:
        train_cell(one, mirror)
        label_cell(one, mirror, embedding())
        for study in studies.values():
            evaluate_cell(study, mirror, embedding)


def _chosen_metrics(study: Study) -> dict[Cell, list[str]]:
    """The metrics of every cell of the grid: those of `metrics`, and those that `metrics_at` names for it.

    Raises:
        UserError: no metrics, unknown ones, a cell that the grid lacks; all in one.
    """
    everywhere, somewhere = list(study.cfg.metrics), study.part("metrics_at")
    keys = [cell.key for cell in study.grid]
    faults = [] if everywhere else [f"metrics is empty; name at least one of {', '.join(METRICS)}"]
    for group, metrics in (("metrics", everywhere), ("metrics_at", somewhere)):
        faults += [
            str(unknown(f"metric in {group}:", each, METRICS)) for each in metrics if each not in METRICS
        ]
    for metric, cells in somewhere.items():
        faults += [
            str(unknown(f"cell in metrics_at.{metric}:", cell, keys)) for cell in cells if cell not in keys
        ]
    together(faults)
    return {
        cell: [*everywhere, *(metric for metric, cells in somewhere.items() if cell.key in cells)]
        for cell in study.grid
    }


def _config_of(metric: str) -> DictConfig:
    """The command's configuration with the options of a metric's own group."""
    overrides = HydraConfig.get().overrides.task
    return compose("run", overrides=[*overrides, f"evaluation={metric}"])


def at(cell: Cell, cfg: DictConfig, *, k: int | None = None) -> Study:
    """The same configuration at another cell, and with another k where one is given."""
    there = copy.deepcopy(cfg)
    there.timestep.t, there.block.name, there.conditioning.branch = cell.t, cell.block, cell.conditioning
    if k is not None:
        there.sae.k = k
    return Study(there)
