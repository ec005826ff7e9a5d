"""The rule of verdicts, on figures worked out by hand."""

from dataclasses import replace
from typing import Any

import pytest

from diffusae.evaluation.result import Estimate, Result
from diffusae.report.sections.composition import verdicts as of_composition
from diffusae.report.sections.emergence import verdicts as of_emergence
from diffusae.report.sections.interventions import verdicts as of_interventions
from diffusae.report.study import FinishedStudy
from diffusae.report.tables import Row
from diffusae.report.verdicts import PAPER, Case, Verdict, case_of, finding_of, judged
from report.rows import claimed, emerged, figure, result, staged

BASELINES = {
    "chance": figure(0.14, (0.12, 0.16), 80),
    "centre_prior": figure(0.22, (0.20, 0.24), 80),
    "noun_probe": figure(0.62, (0.60, 0.64), 80),
    "annotator_ceiling": figure(0.91, (0.90, 0.92), 80),
}


def row(own: dict[str, Any], **others: Any) -> Row:
    return Row.of(result("mid", 1.0, "cond", own, baselines=BASELINES, **others))


@pytest.mark.parametrize(
    ("own", "higher_is_better", "baseline", "lead", "holds"),
    [
        (figure(0.31, (0.28, 0.34), 87), True, "centre prior", 0.28 - 0.24, True),
        (figure(0.27, (0.24, 0.30), 87), True, "centre prior", 0.0, False),  # it must lie above
        (figure(0.18, (0.17, 0.19), 87), True, "centre prior", 0.17 - 0.24, False),
        # Lower is better: the lowest baseline is the strongest.
        (figure(0.05, (0.04, 0.06), 87), False, "chance", 0.12 - 0.06, True),
        (figure(0.13, (0.11, 0.15), 87), False, "chance", 0.12 - 0.15, False),
    ],
)
def test_a_claim_holds_where_the_whole_interval_is_better_than_that_of_the_strongest_baseline(
    own: dict[str, Any], higher_is_better: bool, baseline: str, lead: float, holds: bool
) -> None:
    case = case_of(row(own, higher_is_better=higher_is_better))
    assert (case.baseline, case.lead) == (baseline, pytest.approx(lead))
    assert judged("it is so", "somewhere", [case]).holds is holds


def test_the_strongest_baseline_is_the_one_whose_interval_is_hardest_to_beat() -> None:
    wide = {"wide": figure(0.20, (0.05, 0.35), 9), "narrow": figure(0.25, (0.24, 0.26), 9)}
    case = case_of(Row.of(result("mid", 1.0, "cond", figure(0.4, (0.3, 0.5), 9), baselines=wide)))
    assert (case.baseline, case.lead) == ("wide", pytest.approx(0.30 - 0.35))


def test_without_an_interval_or_a_baseline_nothing_is_decided() -> None:
    alone = Row.of(result("mid", 1.0, "cond", figure(0.4, (0.3, 0.5), 9)))
    for case in (case_of(row(figure(0.4, None, 1))), case_of(alone)):
        verdict = judged("it is so", "somewhere", [case])
        assert (verdict.holds, verdict.text) == (None, "undecided")
    nothing = judged("it is so", "somewhere", [case_of(row(figure(None)))])
    assert (nothing.holds, nothing.text, nothing.best) == (None, "not evaluated", None)


def test_one_cell_is_enough_and_the_one_with_the_largest_lead_is_shown() -> None:
    leads = {"a": -0.2, "b": 0.1, "c": 0.3, "d": None}
    cases = [Case(place, Estimate(0.5, None, 3), "IoU", lead=by) for place, by in leads.items()]
    verdict = judged("it is so", "somewhere", cases)
    assert verdict.holds and verdict.best is not None
    assert (verdict.best.place, verdict.count) == ("c", "2 of 4 cells")


def test_on_the_same_cases_the_interval_of_the_difference_decides() -> None:
    """The intervals 0.85 to 1 and 0.6 to 0.9 overlap; the difference lies above 0 all the same."""
    controls = {"no_edit": figure(0.25, (0.1, 0.4), 24), "neuron": figure(0.75, (0.6, 0.9), 24)}
    differences = {"no_edit": figure(0.7, (0.5, 0.9), 20), "neuron": figure(0.2, (0.05, 0.3), 20)}
    own = figure(0.95, (0.85, 1.0), 20)
    moved = staged("spatial", own, controls=controls, differences=differences)
    verdict = of_interventions(FinishedStudy("s", "m", three_stages=[moved]))[0]
    assert verdict.holds and verdict.best is not None
    assert (verdict.best.baseline, verdict.best.lead) == ("neuron", 0.05)
    assert verdict.best.rival == Estimate(0.75, (0.6, 0.9), 24)
    differences["neuron"] = figure(0.2, (-0.05, 0.4), 20)
    moved = staged("spatial", own, controls=controls, differences=differences)
    assert of_interventions(FinishedStudy("s", "m", three_stages=[moved]))[0].holds is False


def test_the_papers_claims_are_told_as_they_were_judged() -> None:
    claims = [claimed(False, [True, False], text="layout is fixed"), claimed(None, [])]
    verdicts = [
        v for v in of_interventions(FinishedStudy("s", "m", claims=claims)) if v.by == PAPER
    ]
    assert [(v.claim, v.text) for v in verdicts] == [
        ("early: layout is fixed", "does not hold"),
        ("early: layout can be moved", "not evaluated"),
    ]
    unasked = [v for v in of_interventions(FinishedStudy("s", "m")) if v.by == PAPER]
    assert len(unasked) == 7 and not any(v.cases for v in unasked)


def test_composition_is_asked_at_any_moment_and_at_the_first() -> None:
    late = result("up", 0.0, "cond", figure(0.5, (0.4, 0.6), 9), baselines=BASELINES)
    early = result("up", 1.0, "cond", figure(0.2, (0.1, 0.3), 9), baselines=BASELINES)
    anywhere, first = of_composition(FinishedStudy("s", "m", results=[late, early]))
    assert (anywhere.holds, first.holds) == (True, False)
    assert "t = 1.00" in first.claim and len(first.cases) == 1


def test_emergence_holds_where_the_rise_lies_above_zero() -> None:
    values = {1.0: 0.2, 0.0: 0.4}
    for rise, holds in (((0.1, 0.3), True), ((-0.1, 0.3), False)):
        curve = emerged("mid", "cond", values, figure(0.5, None, 7), rise=rise)
        (verdict,) = of_emergence(FinishedStudy("s", "m", emergence=[curve]))
        assert verdict.holds is holds


def test_the_finding_shows_the_difference_to_the_strongest_control() -> None:
    """Where a claim's controls are known by their differences alone, as in the paper's claims."""
    difference = Estimate(0.12, (0.05, 0.2), 20)
    case = Case("down", Estimate(0.8, (0.7, 0.9), 20), "success", "neuron", None, 0.05, difference)
    text = finding_of([judged("layout can be moved", "interventions", [case])]).text
    assert text == (
        "layout can be moved: holds. down: success 0.80 [0.70, 0.90], n = 20; minus neuron, on the"
        " same cases 0.12 [0.05, 0.20]."
    )


def test_an_intervention_stands_beside_its_strongest_rival_at_the_windows_own_t() -> None:
    """`dictionary_concepts` are the same latents in another form. t = .8 is not the own t."""
    differences = {
        "no_edit": figure(0.5, (0.4, 0.6), 20),
        "chosen_latents": figure(-0.1, (-0.2, 0.0), 20),
        "dictionary_concepts": figure(-0.3, (-0.4, -0.2), 20),
    }
    controls = {name: figure(0.4, (0.3, 0.5), 24) for name in differences}
    rows = [
        staged("spatial", figure(0.75, (0.5, 1.0), 20), controls=controls,
               differences=differences, t=t)
        for t in (1.0, 0.8)
    ]  # fmt: skip
    rows[0] = replace(rows[0], details={**rows[0].details, "own_t": True})
    (spatial,) = [
        v
        for v in of_interventions(FinishedStudy("s", "m", three_stages=rows))
        if v.claim.startswith("Concepts m")
    ]
    (case,) = spatial.cases
    assert (case.place, case.baseline, case.lead) == (
        "early, down · t = 1.00 · cond", "chosen latents", -0.2
    )  # fmt: skip


def test_the_finding_is_the_first_claim_that_holds_at_its_best_cell() -> None:
    def verdict(claim: str, by: float | None) -> Verdict:
        own, rival = Estimate(0.31, (0.28, 0.34), 87), Estimate(0.14, (0.12, 0.16), 80)
        return judged(claim, "there", [Case("mid", own, "IoU", "chance", rival, by)])

    asked = [judged("never asked", "there", []), verdict("no", -0.1), verdict("yes", 0.1)]
    finding = finding_of(asked)
    assert finding.holds
    assert (
        finding.text == "yes: holds. mid: IoU 0.31 [0.28, 0.34], n = 87; chance 0.14 [0.12, 0.16]."
    )
    assert finding.note == "1 of 2 claims hold. This one has its lead at 1 of 1 cell."
    assert finding_of(asked[:2]).text.startswith("no: does not hold.")
    assert finding_of(asked[:1]).text == "Nothing was evaluated yet."


def test_a_row_without_data_says_nothing_of_a_claim() -> None:
    rows: list[Result] = [result("mid", 1.0, "cond", figure(None), baselines=BASELINES)]
    assert all(not v.cases for v in of_composition(FinishedStudy("s", "m", results=rows)))
