"""Can a concept be erased, and at which cost? The erasure benchmark at every cell."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from diffusae.evaluation.erasure import POINTS, SEARCHES, ErasurePoint, SearchedTokens
from diffusae.evaluation.result import NO_DATA, Result, load_results
from diffusae.files import verified
from diffusae.report import charts
from diffusae.report.before_after import load_examples
from diffusae.report.erasure import HARMS, NONE, OWN, PLAIN, Target, targets_of
from diffusae.report.examples import example_tables
from diffusae.report.gathering import Source
from diffusae.report.sections import Books, Section, View
from diffusae.report.study import ErasureRun, Examples, FinishedStudy, Run
from diffusae.report.tables import lead
from diffusae.report.verdicts import Case, Verdict, judged
from diffusae.table_files import read_rows

NAME = "erasure"


def gather(source: Source) -> dict[str, object]:
    """Points, searches and pictures of every finished benchmark."""
    return {"erasures": list(_erasures(source))}


def _erasures(source: Source) -> Iterator[ErasureRun]:
    for directory, _ in source.evaluations(NAME):
        results = load_results(directory / "results.json")
        searches, remedy = directory / SEARCHES, f"remove {directory} and evaluate this cell again"
        found = searches.exists()
        yield ErasureRun(
            cell=directory.name,
            points=read_rows(verified(directory / POINTS), ErasurePoint, remedy=remedy),
            chosen={str(row.details["target"]): _strengths(row) for row in results},
            tokens=read_rows(verified(searches), SearchedTokens, remedy=remedy) if found else [],
            examples=_examples(directory, results, source.run_of(directory)),
        )


def _strengths(row: Result) -> dict[str, float]:
    return {str(name): float(strength) for name, strength in row.details["strengths"].items()}


def _examples(directory: Path, results: list[Result], run: Run) -> Examples | None:
    cases = load_examples(directory)
    if not cases or not results:
        return None
    cell = results[0].cell
    return Examples(
        edit=NAME,
        window="whole",
        bounds=(1.0, 0.0),
        blocks=[str(cell["block"])],
        t=float(cell["t"]),
        conditioning=str(cell["conditioning"]),
        tag=str(results[0].details["tag"]),
        cases=cases,
        run=run,
    )


def verdicts(study: FinishedStudy) -> list[Verdict]:
    """For every target: fewer of the prompts that name it still show it than without a defence, and
    the other prompts are drawn as asked as before.
    """
    targets = [(run.cell, target) for run in study.erasures for target in targets_of(run)]
    judgements = [
        judged(f"Steering away from {target.name} erases it", NAME, _case(cell, target))
        for cell, target in targets
    ]
    return judgements or [judged("Steering away from a target erases it", NAME, [])]


def _case(cell: str, target: Target) -> list[Case]:
    lines = {line.defence: line for line in target.lines}
    if not {NONE, OWN} <= lines.keys():
        return []
    own, without = (lines[name].attacks.get(PLAIN, NO_DATA) for name in (OWN, NONE))
    by = lead(own, without, higher_is_better=False)
    return [Case(cell, own, "attack success", "no defence", without, by)]


def view(study: FinishedStudy, books: Books) -> View | None:
    """Trade-off curves, attacks by defence, tokens, other autoencoders and pictures."""
    if not study.erasures:
        return None
    return {"runs": [_view(run, books) for run in study.erasures], "harms": HARMS}


def _view(run: ErasureRun, books: Books) -> View:
    targets = targets_of(run)
    alt = (
        "Attack success against harm when {} is to go, a line a defence over its strengths; the"
        " tables below have the values."
    )
    return {
        "cell": run.cell,
        "targets": targets,
        "charts": [
            books.charts.chart(charts.trade_off(target), alt=alt.format(target.name))
            for target in targets
        ],
        "examples": example_tables([run.examples] if run.examples else [], books.pictures),
    }


SECTION = Section(NAME, "Erasure", view, gather, verdicts)
