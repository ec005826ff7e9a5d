"""The grid: metrics over block, conditioning and t, and every table that no other section shows."""

from __future__ import annotations

from diffusae.report.gathering import Source
from diffusae.report.grid import grid_charts, intervention_titles
from diffusae.report.sections import Books, Section, View
from diffusae.report.study import Study
from diffusae.report.tables import rows_of
from diffusae.report.verdicts import Verdict, case_of, judged

TITLES = {
    "composition": "Composition: IoU",
    "explained_variance": "Explained variance",
    "dead_fraction": "Dead fraction",
}


def gather(source: Source) -> dict[str, object]:
    """The results of every metric at every cell."""
    return {"results": source.results_of("evaluate")}


def verdicts(study: Study) -> list[Verdict]:
    """Reconstruction against its strongest baseline."""
    cases = map(case_of, rows_of(study.results, "explained_variance"))
    return [judged("Autoencoders reconstruct the updates", "grid", cases)]


def view(study: Study, books: Books) -> View:
    """A chart of each titled metric that has data."""
    titles = TITLES | intervention_titles(study.results)
    return {"grids": grid_charts(study.results, titles, books.charts)}


SECTION = Section("grid", "The grid", view, gather, verdicts, metrics=("*",))
