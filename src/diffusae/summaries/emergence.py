"""Curves of composition over t, one for each block, branch and SAE tag; `report` makes them.

A curve is made when all moments of `grid` are evaluated, at least `emergence.moments` of them.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from diffusae.errors import UserError
from diffusae.evaluation.emergence import Emergence, Item, emergence, emergence_result, paired
from diffusae.evaluation.result import NO_DATA, Result, load_results, save_results
from diffusae.evaluation.settings import EmergenceSettings
from diffusae.files import verified
from diffusae.runs.record import Parent, RunRecord, state
from diffusae.runs.survey import finished_runs
from diffusae.study.settings import GridSettings
from diffusae.study.study import Study
from diffusae.table_files import read_table

log = logging.getLogger(__name__)

STAGE = "emergence"
OWN = "iou"
"""The column of objects.parquet with the prediction's IoU; the columns beside it are baselines."""
GUESSES = ("chance", "centre_prior", "other_picture")
"""Those that have no curve, because they are guesses."""

Curve = tuple[str, str, str]
"""Block, conditioning, tag of the SAEs."""
Evaluated = dict[float, tuple[Path, RunRecord]]


def summarise_emergence(study: Study) -> None:
    """Write results.json of every curve whose moments are evaluated; finished ones are skipped."""
    times = sorted((float(t) for t in GridSettings.of(study.cfg).timesteps), reverse=True)
    settings = EmergenceSettings.of(study.cfg)
    if len(times) < settings.moments:
        return
    for curve, cells in _evaluated(study).items():
        missing = ", ".join(f"{t:.2f}" for t in times if t not in cells)
        if missing:
            log.info("no curve of %s yet: t = %s not evaluated", "-".join(curve), missing)
            continue
        _summarise(study, curve, {t: cells[t] for t in times}, settings)


def _evaluated(study: Study) -> dict[Curve, Evaluated]:
    """The finished evaluations of composition, by curve and t."""
    evaluated: dict[Curve, Evaluated] = defaultdict(dict)
    for directory, record in finished_runs(study.directory / "evaluation" / "composition", "*"):
        cell = record.determines["cell"]
        curve = (cell["block"], cell["conditioning"], record.config["sae"]["tag"])
        evaluated[curve][float(cell["t"])] = (directory, record)
    return evaluated


def _summarise(study: Study, curve: Curve, cells: Evaluated, settings: EmergenceSettings) -> None:
    block, conditioning, tag = curve
    name = "-".join(map(str, curve))
    # It comes from run.json, and a study's directory may come from anyone.
    if Path(name).name != name:
        raise UserError(
            f"a run.json of composition names the curve {name!r}, which is no name; remove its"
            " directory"
        )
    directory = study.directory / "evaluation" / STAGE / name
    cell = {"model": study.cfg.model.name, "block": block, "conditioning": conditioning}
    seed = study.seed
    determines = {
        "curve": {**cell, "tag": tag},
        "timesteps": list(cells),
        **asdict(settings),
        "seed": seed,
    }
    parents = {f"evaluate {path.name}": Parent.of(record) for path, record in cells.values()}
    if state(directory, determines=determines, parents=parents) == "finished":
        return
    with study.recorded(directory, STAGE, determines=determines, parents=parents):
        result = _result({t: path for t, (path, _) in cells.items()}, cell, tag, settings, seed)
        save_results(directory / "results.json", [result])


def _result(
    cells: dict[float, Path], cell: dict[str, Any], tag: str, settings: EmergenceSettings, seed: int
) -> Result:
    tables = {
        t: read_table(
            verified(path / "objects.parquet"),
            {"image_id": "text", "noun": "text"},
            remedy=f"remove {path} and evaluate this cell again",
        )
        for t, path in cells.items()
    }
    readers = [
        name
        for name in tables[max(tables)].columns
        if name not in ("image_id", "noun", *GUESSES)
        and all(name in table for table in tables.values())
    ]
    curves = {name: _curve_of(tables, name, settings, seed) for name in readers}
    final = load_results(cells[min(cells)] / "results.json")
    composition = next(row for row in final if row.metric == "composition")
    return emergence_result(
        curves.pop(OWN),
        share=settings.share,
        cell=cell,
        baselines=curves,
        chance=composition.baselines.get("chance", NO_DATA),
        details={"tag": tag},
    )


def _curve_of(
    tables: dict[float, pd.DataFrame], column: str, settings: EmergenceSettings, seed: int
) -> Emergence:
    def scores(table: pd.DataFrame) -> dict[Item, float]:
        rows = zip(table["image_id"], table["noun"], table[column], strict=True)
        return {
            (image_id, noun): float(score) for image_id, noun, score in rows if math.isfinite(score)
        }

    return emergence(
        paired({t: scores(table) for t, table in tables.items()}),
        share=settings.share,
        n_resamples=settings.n_resamples,
        seed=seed,
    )
