"""Where will it be? The composition that concepts predict, beside its baselines."""

from __future__ import annotations

from diffusae.report import charts
from diffusae.report.sections import Books, Section, View, asks_something_else
from diffusae.report.study import FinishedStudy
from diffusae.report.tables import blocks_of, rows_of
from diffusae.report.verdicts import Verdict, case_of, judged

METRIC = "composition"


def verdicts(study: FinishedStudy) -> list[Verdict]:
    """Composition against its strongest baseline, at any moment and at the first."""
    rows = rows_of(study.results, METRIC)
    first = max((row.t for row in rows), default=1.0)
    claim = "Concepts predict where each noun will be"
    return [
        judged(claim, METRIC, map(case_of, rows)),
        judged(
            f"{claim}, at the first moment already (t = {first:.2f})",
            METRIC,
            [case_of(row) for row in rows if row.t == first],
        ),
    ]


def view(study: FinishedStudy, books: Books) -> View | None:
    """IoU against t."""
    rows = rows_of(study.results, METRIC)
    if not rows:
        return None if asks_something_else(study) else {"curves": None}
    blocks = ", ".join(blocks_of(row.block for row in rows))
    alt = (
        f"IoU of predicted composition against t, one panel a block ({blocks}); the table below has"
        " the values."
    )
    return {"curves": books.charts.chart(charts.curves(study.results), alt=alt)}


SECTION = Section("composition", "Composition", view, verdicts=verdicts)
