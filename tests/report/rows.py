"""Rows of results.json, made by hand."""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from diffusae.evaluation.result import Estimate, Result
from diffusae.evaluation.three_stages import Answer, CellAnswer, Coordinates
from diffusae.metrics.registry import metrics
from diffusae.report.shown import Shows
from diffusae.report.study import FinishedStudy


def figure(
    value: float | None, ci95: tuple[float, float] | None = None, n: int = 0
) -> dict[str, Any]:
    return {"value": value, "ci95": ci95, "n": n}


def result(
    block: str,
    t: float,
    conditioning: str,
    own: dict[str, Any],
    *,
    metric: str = "composition",
    baselines: dict[str, dict[str, Any]] | None = None,
    higher_is_better: bool = True,
) -> Result:
    """A row of results.json."""
    return Result.from_json(
        {
            "metric": metric,
            **own,
            "higher_is_better": higher_is_better,
            "unit": "IoU",
            "cell": {"model": "miniature", "block": block, "t": t, "conditioning": conditioning},
            "baselines": baselines or {},
            "details": {"settings": {"top_n": 5}, "threshold": 0.4125},
            "version": 1,
        }
    )


CHANCE = {"chance": figure(0.14, (0.12, 0.16), 80)}


def emerged(
    block: str,
    conditioning: str,
    values: dict[float, float],
    reached: dict[str, Any],
    *,
    readers: dict[str, dict[str, Any]] | None = None,
    rise: tuple[float, float] = (0.1, 0.3),
    tag: str = "k10",
) -> Result:
    """A row as `diffusae.evaluation.emergence.emergence_result` makes it."""
    curve = [
        {"t": t, **figure(value, (value - 0.05, value + 0.05), 7)} for t, value in values.items()
    ]
    return Result.from_json(
        {
            "metric": "emergence",
            **reached,
            "higher_is_better": True,
            "unit": "t",
            "cell": {"model": "miniature", "block": block, "conditioning": conditioning},
            "baselines": readers or {},
            "details": {
                "tag": tag,
                "share": 0.9,
                "between": [0.5, 0.0],
                "first_reached": reached["value"],
                "rise": figure(0.2, rise, 7),
                "chance": CHANCE["chance"],
                "n_incomplete": 0,
                "curve": curve,
                "baseline_curves": {},
            },
            "version": 1,
        }
    )


def staged(
    edit: str,
    own: dict[str, Any],
    *,
    window: str = "early",
    bounds: tuple[float, float] = (1.0, 0.6),
    measure: str = "success",
    controls: dict[str, dict[str, Any]] | None = None,
    differences: dict[str, dict[str, Any]] | None = None,
    standing: dict[str, str] | None = None,
    block: str = "down",
    t: float = 0.8,
    blocks: list[str] | None = None,
    chance: float | None = None,
    tag: str = "k10",
    unit: str = "share",
) -> Result:
    """A row of the three-stage table as `diffusae.summaries.three_stages` makes it."""
    return Result.from_json(
        {
            "metric": f"{edit}_{measure}",
            **own,
            "higher_is_better": measure != "distance",
            "unit": unit,
            "cell": {"model": "miniature", "block": block, "t": t, "conditioning": "cond"},
            "baselines": controls or {},
            "details": {
                "window": window,
                "bounds": list(bounds),
                "edit": edit,
                "together": blocks is not None,
                "measure": measure,
                "blocks": blocks or [block],
                "tag": tag,
                "chance": chance,
                "differences": differences or {},
                "standing": standing or {},
                "strengths": {"concepts": 3.0, "random_latent": 1.0},
            },
            "version": 1,
        }
    )


def claimed(
    holds: bool | None,
    rises: list[bool | None],
    *,
    window: str = "early",
    text: str = "layout can be moved",
) -> Answer:
    """A claim with a cell for each of `rises`."""
    cells = [
        CellAnswer(
            cell=Coordinates("miniature", "down", 0.8, "cond"),
            tag="k10",
            blocks=["down"],
            value=0.9512,
            ci95=(0.85, 1.0),
            n=20,
            differences={"no_edit": Estimate(0.7, (0.5, 0.9), 20), "random_latent": None},
            rises=rising,
        )
        for rising in rises
    ]
    return Answer(window, "spatial", True, text, holds, cells)


_MADE_BY = {
    "decided_*": "decisions",
    "shown_*": "decisions",
    "recovery*": "truth",
    "audit_*": "truth",
    "composition": "composition",
    "dead_fraction": "reconstruction",
    "cohesion*": "cohesion",
    "stability": "latents",
    "label_entropy_*": "purity",
    "accuracy_*": "knowledge",
    "spatial_*": "spatial",
    "*_together": "global_together",
    "steering_*": "steering",
    "erasure_*": "erasure",
}


def measured(study: FinishedStudy) -> FinishedStudy:
    """The study with its rows shown as the metrics that make them say."""
    made_by = {
        row.metric: metric
        for row in study.results
        for pattern, metric in _MADE_BY.items()
        if fnmatchcase(row.metric, pattern)
    }
    return replace(study, shows=Shows(metrics(), made_by))


def data_of(spec: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """The sets of data of a chart's specification, in its order."""
    return list(spec["datasets"].values())
