"""Do latents equal what the pictures show, and can the metrics tell?"""

from __future__ import annotations

from diffusae.report.grid import grid_charts
from diffusae.report.sections import Books, Section, View
from diffusae.report.study import FinishedStudy
from diffusae.report.truth import AUDIT, audited, recovered

NAME = "truth"


def view(study: FinishedStudy, books: Books) -> View | None:
    """The chart of recovery and the table of all audited figures."""
    rows = [row for row in study.results if study.shows.section(row.metric) == NAME]
    if not rows:
        return None
    chart = recovered(rows)
    alt = (
        "F1 of the best latent for every factor, and of sparse probes, beside neurons and chance;"
        " the tables have the values."
    )
    drawn = None if chart is None else books.charts.chart(chart, alt=alt)
    audits = {row.metric for row in rows if row.metric.startswith(AUDIT)}
    titles = study.shows.charts(lambda one: one.section == NAME)
    over_grid = grid_charts(study.results, titles, books.charts)
    return {"drawn": drawn, "over_grid": over_grid, "audited": audited(rows), "audits": audits}


SECTION = Section(NAME, "Truth", view)
