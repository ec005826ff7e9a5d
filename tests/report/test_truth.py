"""The benchmark of truth in the report: its chart, the table of all figures, and its text."""

from __future__ import annotations

import re

import pytest

from diffusae.errors import UserError
from diffusae.evaluation.result import Estimate, Result
from diffusae.evaluation.sensitivity import ORACLE
from diffusae.report.page import render_page
from diffusae.report.study import FinishedStudy
from diffusae.report.truth import audited, recovered
from report.rows import data_of, measured

BESIDE = {
    ORACLE: Estimate(1.0, (0.9, 1.0), 40),
    "permuted_labels": Estimate(0.1, (0.05, 0.15), 40),
    "random_weights": Estimate(None),
}


def row(metric: str, own: Estimate, *, t: float = 0.5, sae: str = "k10", **details: object):
    about = {
        "sae": sae, "smallest_difference": 0.08, "steps": 11.2, "reseed_deviation": None,
        "n_seeds": 1,
    }  # fmt: skip
    cell = {"model": "miniature", "block": "mid", "t": t, "conditioning": "cond"}
    return Result(metric, own, True, "F1", cell, BESIDE, about | details)


ROWS = [
    row("recovery", Estimate(0.4, (0.3, 0.5), 40)),
    row(
        "recovery_noun",
        Estimate(0.5, (0.4, 0.6), 40),
        sae="relu<b>",
        reseed_deviation=0.03,
        n_seeds=3,
    ),
    row("recovery_noun", Estimate(0.3, (0.2, 0.4), 40)),
    row("recovery_grain", Estimate(None), t=1.0, smallest_difference=None, steps=None),
    row("audit_composition", Estimate(0.2, (0.1, 0.3), 90), audited="composition"),
]


def study_of(results: list[Result]) -> FinishedStudy:
    return measured(FinishedStudy("true", "miniature", results=results))


def test_a_line_of_the_table_says_which_metric_and_autoencoder_it_is_of() -> None:
    lines = audited(ROWS)
    assert [(one.name, one.metric, one.sae) for one in lines] == [
        ("recovery_grain", "truth", "k10"),
        ("recovery", "truth", "k10"),
        ("recovery_noun", "truth", "k10"),
        ("composition", "composition", "k10"),
        ("recovery_noun", "truth", "relu<b>"),
    ]
    assert (lines[4].reseeded, lines[4].seeds, lines[4].least) == (0.03, 3, 0.08)
    assert [control.value for control in lines[1].controls] == [0.1, None]


def test_the_chart_has_a_panel_an_autoencoder_and_leaves_out_what_has_no_data() -> None:
    chart = recovered(ROWS)
    assert chart is not None
    (data,) = data_of(chart.to_dict())
    panels = {one["panel"] for one in data}
    assert panels == {"mid · t = 0.50 · cond · k10", "mid · t = 0.50 · cond · relu<b>"}
    own = [one["value"] for one in data if one["name"] == "latents"]
    assert sorted(own) == [0.3, 0.5]
    assert {one["row"] for one in data} == {"noun"}, "the mean over all values has no line here"
    assert recovered([ROWS[3]]) is None


def test_the_page_shows_figures_and_steps_and_escapes_names() -> None:
    page = render_page(study_of(ROWS))
    section = page.partition('<section id="truth">')[2].partition("</section>")[0]
    text = re.sub(r"<[^>]+>", " ", section)
    assert "composition" in text and "11.2" in text and "0.080" in text
    assert "relu<b>" not in section and "relu&lt;b&gt;" in section
    assert "Audit composition of every cell" not in text, "its figures stand in the table"
    assert "Recovery noun of every cell" in text


def test_a_study_without_truth_has_no_such_section_and_a_broken_row_is_named() -> None:
    assert '<section id="truth">' not in render_page(FinishedStudy("none", "miniature"))
    broken = ROWS[0].to_json()
    del broken["details"]["sae"]
    with pytest.raises(UserError, match="evaluate this cell by truth again"):
        audited([Result.from_json(broken)])
