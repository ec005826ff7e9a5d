"""When does the model decide what the picture shows? Decision times, without an autoencoder."""

from __future__ import annotations

from diffusae.report.decisions import METRIC, curves, decisions_of
from diffusae.report.sections import Books, Section, View
from diffusae.report.study import FinishedStudy


def view(study: FinishedStudy, books: Books) -> View | None:
    """The chart of all attributes, and their figures."""
    rows = [row for row in study.results if study.shows.section(row.metric) == METRIC]
    decisions = decisions_of(rows)
    if not decisions:
        return None
    alt = (
        "The share of pictures that show the new value over the t from which on the caption is"
        f" exchanged: {', '.join(dict.fromkeys(one.attribute for one in decisions))}; the table"
        " below has the values."
    )
    return {"decisions": decisions, "drawn": books.charts.chart(curves(decisions), alt=alt)}


SECTION = Section(METRIC, "Decisions", view)
