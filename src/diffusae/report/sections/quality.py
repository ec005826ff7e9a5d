"""How good are the concepts, and how faithful the autoencoders?"""

from __future__ import annotations

from diffusae.report.grid import grid_charts
from diffusae.report.sections import Books, Section, View
from diffusae.report.study import FinishedStudy

NAME = "quality"


def view(study: FinishedStudy, books: Books) -> View | None:
    """The charts of the metrics of this section."""
    if all(study.shows.section(row.metric) != NAME for row in study.results):
        return None
    titles = study.shows.charts(lambda one: one.section == NAME)
    return {"quality": grid_charts(study.results, titles, books.charts)}


SECTION = Section(NAME, "Quality", view)
