"""Charts of metrics over the whole grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from diffusae.evaluation.result import Result
from diffusae.report import charts
from diffusae.report.vega import ChartBook


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
