"""The three-stage table of all finished interventions, by window; `report` and `dashboard` make it.

It is made of whatever is evaluated, and made again when there is more. Unlike other results it has
no cell of its own that another configuration could claim.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Unpack

import pandas as pd

from diffusae.evaluation.result import (
    NO_DATA,
    Estimate,
    Resampling,
    Result,
    load_results,
    save_results,
)
from diffusae.evaluation.settings import ThreeStageSettings
from diffusae.evaluation.three_stages import (
    Answer,
    Staged,
    answered,
    difference_to,
    paired_difference,
    standing,
)
from diffusae.files import atomic_write_json, verified
from diffusae.interventions.regions import Region
from diffusae.interventions.windows import OWN_T, window_name
from diffusae.parsing import read_json, reading, typed
from diffusae.runs.lock import directory_lock
from diffusae.runs.record import RECORD, Parent, RunRecord, run_signature, state
from diffusae.runs.survey import finished_runs
from diffusae.study.study import Study
from diffusae.table_files import read_table, write_table

log = logging.getLogger(__name__)

STAGE = "three_stages"
INTERVENTIONS = ("spatial", "global", "global_together")
OWN = "concepts"
"""The method of a row's own figures; all other methods are baselines."""
TOGETHER = "_together"

MEASURES = ("success", "reached", "kept", "distance", "similarity", "lpips", "sufficient_strength")
"""The measures of the table. `distance` is the change of the rest (RMS) in spatial rows, and the
annotator's feature distance in global rows.
"""
_MEASURE = {
    "rose": "success", "recognised": "kept", "rest_changed": "distance",
    "feature_distance": "distance",
}  # fmt: skip
_LEFT_OUT = ("score_before", "score_after", "gain")
"""Measures of global edits that the table does not show: `success` says whether the score rose."""
_COLUMN = {"recognised": "found", "rest_changed": "rest"}
_SHARES = ("success", "reached", "kept")
_CASE = ("image_id", "noun", "region", "target")
_CASES = ("objects.parquet", "pictures.parquet")


@dataclass(frozen=True)
class Evaluated:
    """One finished evaluation of an intervention."""

    directory: Path
    metric: str
    record: RunRecord

    @property
    def name(self) -> str:
        """Its metric and cell, such as "spatial/down-t0.80-cond-k10"."""
        return f"{self.metric}/{self.directory.name}"

    @property
    def tag(self) -> str:
        """The SAE's tag."""
        return str(self.record.config["sae"]["tag"])


def summarise_three_stages(study: Study) -> None:
    """Write the table of all finished interventions, unless it exists or there are none."""
    interventions = evaluated_interventions(study)
    if not interventions:
        return
    directory = study.directory / "evaluation" / STAGE
    settings, seed = ThreeStageSettings.of(study.cfg), study.seed
    determines = {**asdict(settings), "seed": seed}
    parents = {f"evaluate {one.name}": Parent.of(one.record) for one in interventions}
    if _is_there(directory, determines, parents):
        return
    with directory_lock(directory):
        # A table of other interventions is not the result of another run.
        (directory / RECORD).unlink(missing_ok=True)
        with study.recorded(directory, STAGE, determines=determines, parents=parents, locks=False):
            results = [row for one in interventions for row in _rows_of(one, settings, seed)]
            write_table(directory / "table.parquet", table_of(results))
            claims = [asdict(answer) for answer in answered(results, margin=settings.margin)]
            atomic_write_json(directory / "claims.json", claims)
            save_results(directory / "results.json", results)
    log.info("the three-stage table of %d interventions: %s", len(interventions), directory)


def _is_there(directory: Path, determines: Mapping[str, Any], parents: Mapping[str, str]) -> bool:
    """Whether the table of exactly these interventions exists and is whole."""
    wanted = run_signature(determines=determines, parents=parents)
    return any(
        record.signature == wanted
        and state(directory, determines=determines, parents=parents) == "finished"
        for _, record in finished_runs(directory, ".")
    )


def claims_in(study: Study) -> list[Answer]:
    """The table's answers to the paper's claims; empty without a finished table.

    Raises:
        UserError: claims.json is damaged.
    """
    directory = study.directory / "evaluation" / STAGE
    if not any(finished_runs(directory, ".")):
        return []
    remedy = f"remove {directory} and report again"
    path = verified(directory / "claims.json")
    rows = read_json(path, remedy=remedy, kind=list)
    with reading(path, remedy=remedy):
        return [typed(Answer, row) for row in rows]


def evaluated_interventions(study: Study) -> list[Evaluated]:
    """The finished evaluations of every intervention, by metric and cell."""
    return [
        Evaluated(directory, metric, record)
        for metric in INTERVENTIONS
        for directory, record in finished_runs(study.directory / "evaluation" / metric, "*")
    ]


def _rows_of(evaluated: Evaluated, settings: ThreeStageSettings, seed: int) -> list[Result]:
    path = next((path for name in _CASES if (path := evaluated.directory / name).exists()), None)
    cases = None
    if path is not None:
        remedy = f"remove {path.parent} and evaluate this cell again"
        cases = read_table(verified(path), {}, remedy=remedy)
    rows = []
    for row in load_results(evaluated.directory / "results.json"):
        edit, column, together = _parts(evaluated, row)
        measure = _MEASURE.get(column, column)
        if measure in _LEFT_OUT:
            continue
        if measure not in MEASURES:
            log.warning("%s: %s has no place in the three-stage table", evaluated.name, row.metric)
            continue
        differences = _differences(
            row,
            cases,
            _COLUMN.get(column, column),
            of_shares=measure in _SHARES,
            n_resamples=settings.n_resamples,
            seed=seed,
        )
        margin = settings.margin if measure in _SHARES else None
        spatial = (edit, measure) == ("spatial", "success")
        staged = Staged(
            window=window_name(row.details["window"]),
            bounds=row.details["window"],
            edit=edit,
            together=together,
            measure=measure,
            blocks=list(row.details.get("blocks") or [row.cell["block"]]),
            tag=evaluated.tag,
            chance=_chance(evaluated) if spatial else None,
            own_t=row.cell["t"] == OWN_T.get(window_name(row.details["window"])),
            differences=differences,
            standing={
                name: standing(one, higher_is_better=row.higher_is_better, margin=margin)
                for name, one in differences.items()
            },
            strengths=row.details.get("strengths"),
            conditionings=row.details.get("conditionings"),
            draws=row.details.get("draws") or None,
        )
        rows.append(replace(row, details=staged.to_json()))
    return rows


def _parts(evaluated: Evaluated, row: Result) -> tuple[str, str, bool]:
    """The edit of a row, its figure, and whether several blocks were edited together."""
    edit = str(row.details.get("factor", "spatial"))
    column = row.metric.removeprefix(f"{edit}_").removesuffix(TOGETHER)
    together = evaluated.metric.endswith(TOGETHER) or len(row.details.get("blocks") or ()) > 1
    return edit, column, together


def _chance(evaluated: Evaluated) -> float | None:
    """The mean share of the picture that a region covers: the chance of a random centre of mass."""
    regions = evaluated.record.config.get("evaluation", {}).get("regions") or []
    shares = [shares_of(str(region)) for region in regions]
    return sum(shares) / len(shares) if shares else None


@cache
def shares_of(region: str) -> float:
    """The share of the picture that a region covers."""
    return float(Region(region).mask((64, 64)).float().mean())


def _differences(
    row: Result,
    cases: pd.DataFrame | None,
    column: str,
    *,
    of_shares: bool,
    **resampling: Unpack[Resampling],
) -> dict[str, Estimate]:
    """Concepts minus every control, of the same cases where these are kept."""
    differences = {}
    for name, baseline in row.baselines.items():
        own, pictures = _values(row, cases, column, OWN)
        other, _ = _values(row, cases, column, name)
        if own and other:
            differences[name] = paired_difference(
                own, other, pictures=pictures, of_shares=of_shares, **resampling
            )
        elif name == "no_edit" and "factor" in row.details and baseline.value is not None:
            # A picture compared with itself has 0 or 1 by definition.
            differences[name] = difference_to(baseline.value, row.estimate)
    return {name: estimate for name, estimate in differences.items() if estimate.n}


def _values(
    row: Result, cases: pd.DataFrame | None, column: str, method: str
) -> tuple[dict[Hashable, float], dict[Hashable, Hashable]]:
    """The outcome and the picture of every test case of a method at its chosen strength: the mean
    over the random draws that met the case.
    """
    if cases is None or column not in cases:
        return {}, {}
    chosen = (cases["split"] == "test") & (cases["method"] == method)
    if "factor" in cases:
        chosen &= cases["factor"] == row.details.get("factor")
    strengths = row.details.get("strengths", {})
    if method in strengths:
        chosen &= (cases["strength"] - float(strengths[method])).abs() < 1e-9
    table = cases[chosen]
    keys = list(zip(*(table[name].tolist() for name in _CASE if name in table), strict=True))
    # None: not measured, such as the feature distance of an annotator without features.
    values = [float("nan") if value is None else float(value) for value in table[column].tolist()]
    by_case: dict[Hashable, list[float]] = {}
    for key, value in zip(keys, values, strict=True):
        by_case.setdefault(key, []).append(value)
    means = {key: sum(drawn) / len(drawn) for key, drawn in by_case.items()}
    return means, dict(zip(keys, table["image_id"].tolist(), strict=True))


def table_of(results: list[Result]) -> pd.DataFrame:
    """One row a window, edit, cell and method: every measure, and the difference to every control.

    Measures have an interval, n and clusters; unknown values are NaN (counts: 0).
    """
    lines: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in results:
        staged = Staged.of(row)
        for method, estimate in {OWN: row.estimate, **row.baselines}.items():
            place = {
                "window": staged.window,
                "first": float(staged.bounds[0]),
                "last": float(staged.bounds[1]),
                "edit": staged.edit,
                "together": staged.together,
                "blocks": "+".join(staged.blocks),
                **row.cell,
                "tag": staged.tag,
                "method": method,
            }
            line = lines.setdefault(tuple(place.values()), {**place, **_nothing()})
            line["strength"] = float((staged.strengths or {}).get(method, 0.0))
            line |= _columns(staged.measure, estimate)
            difference = staged.differences.get(method, NO_DATA)
            line |= _columns(f"{staged.measure}_difference", difference)
            lines[tuple(place.values())] = line
    return pd.DataFrame(list(lines.values()))


def _nothing() -> dict[str, Any]:
    columns = [name for measure in MEASURES for name in (measure, f"{measure}_difference")]
    return {"strength": 0.0} | {
        name: value for column in columns for name, value in _columns(column, NO_DATA).items()
    }


def _columns(name: str, estimate: Estimate) -> dict[str, Any]:
    nan = float("nan")
    low, high = estimate.ci95 or (nan, nan)
    value = nan if estimate.value is None else estimate.value
    counts = {f"{name}_n": estimate.n, f"{name}_clusters": estimate.clusters or estimate.n}
    return {name: value, f"{name}_low": low, f"{name}_high": high, **counts}
