"""The grid: metrics over block, conditioning and t, and every table that no other section shows."""

from __future__ import annotations

from diffusae.report.gathering import Source
from diffusae.report.grid import grid_charts
from diffusae.report.sections import Books, Section, View
from diffusae.report.sections.knowledge import PURITY
from diffusae.report.sections.quality import NAME as QUALITY
from diffusae.report.study import FinishedStudy


def gather(source: Source) -> dict[str, object]:
    """The results of every metric at every cell, and how they are shown."""
    return {"results": source.results_of("evaluate"), "shows": source.shows}


def view(study: FinishedStudy, books: Books) -> View:
    """A chart of every row that has data and a title, and that no other section draws."""
    titles = study.shows.charts(lambda one: one.section != QUALITY and one.name != PURITY)
    return {"grids": grid_charts(study.results, titles, books.charts)}


SECTION = Section("grid", "The grid", view, gather)
