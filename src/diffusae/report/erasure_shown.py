"""What the report shows of finished erasure benchmarks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diffusae.evaluation.erasure import POINTS, SEARCHES
from diffusae.evaluation.result import Result, load_results
from diffusae.files import verified
from diffusae.report.before_after import load_examples
from diffusae.report.study import ErasureRun, Examples, Run
from diffusae.runs.survey import finished_runs
from diffusae.study.study import Study
from diffusae.table_files import read_table

METRIC = "erasure"


def finished_erasures(study: Study) -> list[Path]:
    """The directories of every finished evaluation, by cell."""
    return [
        directory for directory, _ in finished_runs(study.directory / "evaluation" / METRIC, "*")
    ]


def erasures_shown(study: Study, run_of: Any) -> Iterator[ErasureRun]:
    """One for each; `run_of` gives the run of a directory, as the report links it."""
    for directory in finished_erasures(study):
        results = load_results(directory / "results.json")
        searches, remedy = directory / SEARCHES, f"remove {directory} and evaluate this cell again"
        yield ErasureRun(
            cell=directory.name,
            points=read_table(verified(directory / POINTS), {}, remedy=remedy).to_dict("records"),  # type: ignore[arg-type]
            chosen={str(row.details["target"]): _strengths(row) for row in results},
            tokens=(
                read_table(verified(searches), {}, remedy=remedy).to_dict("records")
                if searches.exists()
                else []
            ),  # type: ignore[arg-type]
            examples=_examples(directory, results, run_of(study, directory)),
        )


def _strengths(row: Result) -> dict[str, float]:
    return {str(name): float(each) for name, each in row.details["strengths"].items()}


def _examples(directory: Path, results: list[Result], run: Run) -> Examples | None:
    cases = load_examples(directory)
    if not cases or not results:
        return None
    cell = results[0].cell
    return Examples(
        edit=METRIC,
        window="whole",
        bounds=(1.0, 0.0),
        blocks=[str(cell["block"])],
        t=float(cell["t"]),
        conditioning=str(cell["conditioning"]),
        tag=str(results[0].details["tag"]),
        cases=cases,
        run=run,
    )
