"""Rows of results.json, made by hand."""

from __future__ import annotations

from typing import Any


def figure(value: float | None, ci95: tuple[float, float] | None = None, n: int = 0) -> dict[str, Any]:
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
) -> dict[str, Any]:
    """A row as `diffusae.evaluation.result.Result.to_json` writes it."""
    return {
        "metric": metric,
        **own,
        "higher_is_better": higher_is_better,
        "unit": "IoU",
        "cell": {"model": "miniature", "block": block, "t": t, "conditioning": conditioning},
        "baselines": baselines or {},
        "details": {"settings": {"top_n": 5}, "threshold": 0.4125},
        "version": 1,
    }


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
) -> dict[str, Any]:
    """A row as `diffusae.evaluation.emergence.emergence_result` makes it."""
    curve = [{"t": t, **figure(value, (value - 0.05, value + 0.05), 7)} for t, value in values.items()]
    return {
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
