"""What do the concepts cause? Spatial and global interventions, window by window."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from diffusae.evaluation.result import Estimate, load_results
from diffusae.evaluation.three_stages import CLAIMS as PAPERS_CLAIMS
from diffusae.evaluation.three_stages import Answer, at_own_t
from diffusae.interventions.windows import window_name
from diffusae.report import charts
from diffusae.report.before_after import load_examples
from diffusae.report.examples import example_tables
from diffusae.report.gathering import Source
from diffusae.report.sections import Books, Section, View
from diffusae.report.study import Examples, FinishedStudy
from diffusae.report.tables import plain
from diffusae.report.three_stages import (
    MEASURES,
    Line,
    answer_text,
    controls_of,
    evidence,
    lines_of,
    place_of_answer,
)
from diffusae.report.verdicts import PAPER, Case, Verdict, judged
from diffusae.summaries.three_stages import STAGE, claims_in, evaluated_interventions

NAME = "interventions"
CLAIMS = {
    "spatial": "Concepts move an object to another place",
    "style": "Concepts bring in a style",
    "tone": "Concepts bring in a tone",
    "grain": "Concepts bring in a grain",
}


def gather(source: Source) -> dict[str, object]:
    """The three-stage table, its claims, and pictures before and after."""
    return {
        "three_stages": source.results_of(STAGE),
        "claims": claims_in(source.study),
        "examples": list(_examples(source)),
    }


def _examples(source: Source) -> Iterator[Examples]:
    for evaluation in evaluated_interventions(source.study):
        cases = load_examples(evaluation.directory)
        if not cases:
            continue
        row = load_results(evaluation.directory / "results.json")[0]
        first, last = row.details["window"]
        yield Examples(
            edit=evaluation.metric,
            window=window_name((first, last)),
            bounds=(float(first), float(last)),
            blocks=list(row.details.get("blocks") or [row.cell["block"]]),
            t=float(row.cell["t"]),
            conditioning=str(row.cell["conditioning"]),
            tag=evaluation.tag,
            cases=cases,
            run=source.run_of(evaluation.directory),
        )


def verdicts(study: FinishedStudy) -> list[Verdict]:
    """Success against the strongest control on the same cases; then the paper's claims."""
    lines = lines_of(study.three_stages)
    edits = dict.fromkeys([*CLAIMS, *(line.edit for line in lines)])
    own = [
        judged(
            CLAIMS.get(edit, f"Concepts bring in a {plain(edit)}"),
            NAME,
            [
                _case(
                    f"{line.window}, {line.place}",
                    success.own,
                    success.differences,
                    success.controls,
                )
                for line in _asked(lines, edit)
                if (success := line.measures.get("success"))
            ],
        )
        for edit in edits
    ]
    unasked = [Answer.of(claim, []) for claim in PAPERS_CLAIMS]
    return own + [
        Verdict(f"{answer.window}: {answer.text}", NAME, answer.holds, _cases(answer), PAPER)
        for answer in study.claims or unasked
    ]


def _asked(lines: Sequence[Line], edit: str) -> list[Line]:
    """The lines of an edit that its claim is asked of: in every window those with the SAE of the
    window's own t, or all where there is none.
    """
    of_edit = [line for line in lines if line.edit == edit]
    return [
        line
        for window in dict.fromkeys(line.window for line in of_edit)
        for line in at_own_t([one for one in of_edit if one.window == window], _own_t)
    ]


def _own_t(line: Line) -> bool:
    return line.own_t


def _case(
    place: str,
    success: Estimate,
    differences: Mapping[str, Estimate | None],
    controls: Mapping[str, Estimate],
) -> Case:
    """What one cell says, beside the method that the success leads least. The same concepts in
    another form of the edit are no rival.
    """
    leads = {
        name: known.ci95[0]
        for name, known in differences.items()
        if known and known.ci95 and name != "dictionary_concepts"
    }
    if not leads:
        return Case(place, success, "success")
    name = min(leads, key=leads.__getitem__)
    beside = plain(name), controls.get(name), leads[name], differences[name]
    return Case(place, success, "success", *beside)


def _cases(answer: Answer) -> list[Case]:
    """What every cell with data says of one of the paper's claims."""
    return [
        _case(place_of_answer(cell), cell.own, cell.differences, {})
        for cell in answer.cells
        if cell.value is not None
    ]


def view(study: FinishedStudy, books: Books) -> View | None:
    """The claims, the figure, the table, and pictures before and after."""
    lines = lines_of(study.three_stages)
    if not (lines or study.examples):
        return None
    edits = ", ".join(dict.fromkeys(line.edit for line in lines))
    drawn = []
    for measure, words in (("success", "Success"), ("change", "Change of the picture")):
        if lines and (chart := charts.three_stages(lines, measure)) is not None:
            alt = f"{words} of {edits} edits by window, beside the controls; see the table."
            drawn.append((words, books.charts.chart(chart, alt=alt)))
    return {
        "claims": [(one, answer_text(one), list(map(evidence, one.cells))) for one in study.claims],
        "stages": lines,
        "stage_charts": drawn,
        "stage_controls": controls_of(lines),
        "stage_measures": [n for n in MEASURES if any(n in line.measures for line in lines)],
        "stage_change": sorted(
            {
                "feature distance" if "distance" in line.measures else line.distance.unit
                for line in lines
                if line.edit != "spatial" and line.distance
            }
        ),
        "examples": example_tables(study.examples, books.pictures),
    }


SECTION = Section(NAME, "Interventions", view, gather, verdicts)
