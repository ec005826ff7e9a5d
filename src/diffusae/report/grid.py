"""Charts of metrics over the whole grid, and their titles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from diffusae.evaluation.result import Result
from diffusae.report import charts
from diffusae.report.tables import capital, plain
from diffusae.report.vega import ChartBook

# How the names of global interventions end, after the factor that is changed.
_GLOBAL = {"rose": "score rose", "reached": "target reached"}
_TOGETHER = "_together"


@dataclass(frozen=True)
class GridChart:
    """A chart and the title above it."""

    title: str
    drawing: Markup


def grid_charts(
    results: Sequence[Result], titles: Mapping[str, str], book: ChartBook
) -> list[GridChart]:
    """A chart for each titled metric that has data in some cell."""
    known = {row.metric for row in results if row.value is not None}
    alt = (
        "{} of every cell, a line a block and conditioning, a column a t; the tables have the"
        " values."
    )
    return [
        GridChart(title, book.chart(charts.grid(results, metric), alt=alt.format(title)))
        for metric, title in titles.items()
        if metric in known
    ]


def intervention_titles(results: Sequence[Result]) -> dict[str, str]:
    """Successes of interventions among the rows, in order of appearance, with their titles."""
    titles = {}
    for metric in dict.fromkeys(row.metric for row in results):
        one = metric.removesuffix(_TOGETHER)
        factor, _, ending = one.rpartition("_")
        if metric == "spatial_success":
            titles[metric] = "Spatial interventions: success"
        elif ending in _GLOBAL and factor:
            together = ", blocks together" if one != metric else ""
            titles[metric] = f"{capital(plain(factor))}{together}: {_GLOBAL[ending]}"
    return titles
