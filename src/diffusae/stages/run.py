"""Run: every stage over the whole grid, in one process. Each cell is finished before the next begins."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from functools import cache

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from diffusae.activations.schema import Cell
from diffusae.concepts.embeddings import WordEmbedding
from diffusae.errors import UserError
from diffusae.runs.lock import directory_lock
from diffusae.stages.annotate import annotate
from diffusae.stages.collect import collect
from diffusae.stages.evaluate import METRICS, evaluate_cell, evaluated
from diffusae.stages.label import label_cell, labelled, word_embedding
from diffusae.stages.progress import progress_bar
from diffusae.stages.report import report
from diffusae.stages.study import Study
from diffusae.stages.train import mirror_of, train_cell, trained

log = logging.getLogger(__name__)


def run(cfg: DictConfig) -> None:
    """Carry a whole experiment out. What is finished is skipped; a failing cell does not stop the others.

    Raises:
        UserError: after all cells, when some of them failed; a table names them.
    """
    study = Study(cfg)
    study.check()
    with directory_lock(study.directory):
        collect(cfg)
        annotate(cfg)
        failures = _cells(study)
        report(cfg)
    if failures:
        raise UserError(
            f"{len(failures)} of {len(study.grid)} cells failed: {', '.join(failures)}; the same command runs only "
            "these again"
        )


def _cells(study: Study) -> list[str]:
    """Train, label and evaluate cell by cell; return the names of those that failed."""
    embedding = cache(lambda: word_embedding(study))
    configs = _by_metric()
    cells = {cell: {metric: at(cell, cfg) for metric, cfg in configs.items()} for cell in study.grid}
    # Asked of all cells first: another configuration's result in one of them is told before anything is trained.
    waiting = [studies for studies in cells.values() if not _finished(studies)]
    log.info("%d of %d cells are finished", len(cells) - len(waiting), len(cells))
    failures: dict[str, str] = {}
    with progress_bar("cells", total=len(waiting)) as (advance, name):
        for studies in waiting:
            one = next(iter(studies.values()))
            name(f"cell {one.cell_name}")
            try:
                _carry_out(studies, embedding)
            except Exception as error:
                log.exception("cell %s failed", one.cell_name)
                failures[one.cell_name] = str(error)
            advance(1)
    if failures:
        table = Table("cell", "error", title=f"{len(failures)} of {len(cells)} cells failed")
        for name, error in failures.items():
            table.add_row(name, error)
        Console(stderr=True).print(table)
    return list(failures)


def _finished(studies: Mapping[str, Study]) -> bool:
    """Whether a cell has nothing left to do; `studies` holds it once a metric."""
    one = next(iter(studies.values()))
    return (
        trained(one) and labelled(one) and all(evaluated(study, metric) for metric, study in studies.items())
    )


def _carry_out(studies: Mapping[str, Study], embedding: Callable[[], WordEmbedding]) -> None:
    one = next(iter(studies.values()))
    with mirror_of(one) as mirror:
        train_cell(one, mirror)
        label_cell(one, embedding())
        for study in studies.values():
            evaluate_cell(study, mirror, embedding)


def _by_metric() -> dict[str, DictConfig]:
    """The command's configuration once a metric, for the options of each metric's own group."""
    overrides = HydraConfig.get().overrides.task
    return {metric: compose("run", overrides=[*overrides, f"evaluation={metric}"]) for metric in METRICS}


def at(cell: Cell, cfg: DictConfig, *, k: int | None = None) -> Study:
    """The same configuration at another cell, and with another k where one is given."""
    there = copy.deepcopy(cfg)
    if there.timestep.t != cell.t:
        there.timestep.window = None  # that of another moment
    there.timestep.t, there.block.name, there.conditioning.branch = cell.t, cell.block, cell.conditioning
    if k is not None:
        there.sae.k = k
    return Study(there)
