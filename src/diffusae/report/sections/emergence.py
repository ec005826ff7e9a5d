"""When is it there? The curves of emergence."""

from __future__ import annotations

from diffusae.report import charts
from diffusae.report.emergence import curves_of
from diffusae.report.gathering import Source
from diffusae.report.sections import Books, Section, View
from diffusae.report.study import FinishedStudy
from diffusae.report.verdicts import Case, Verdict, judged
from diffusae.summaries.emergence import STAGE


def gather(source: Source) -> dict[str, object]:
    """The finished curves."""
    return {"emergence": source.results_of(STAGE)}


def verdicts(study: FinishedStudy) -> list[Verdict]:
    """Whether the last moment lies above the first, picture by picture."""
    cases = []
    for curve in curves_of(study.emergence):
        if curve.points:
            (_, first), (_, last) = curve.points[0], curve.points[-1]
            low = None if curve.rise.ci95 is None else curve.rise.ci95[0]
            cases.append(
                Case(curve.name, last, "IoU at the end", "first moment", first, low, curve.rise)
            )
    claim = "Composition emerges: the prediction is better at the end than at the beginning"
    return [judged(claim, "emergence", cases)]


def view(study: FinishedStudy, books: Books) -> View | None:
    """The chart and the curves in figures."""
    lines = curves_of(study.emergence)
    if not lines:
        return None
    names = ", ".join(curve.name for curve in lines)
    alt = (
        f"IoU over t of {names}, and the t at which each has emerged; the table below has the"
        " values."
    )
    return {"emergence": lines, "emerged": books.charts.chart(charts.emergence(lines), alt=alt)}


SECTION = Section("emergence", "Emergence", view, gather, verdicts)
