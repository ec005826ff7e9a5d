"""The section of erasure: what it says of hand-made points, and what it draws."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from diffusae.evaluation.erasure import ErasurePoint, SearchedTokens
from diffusae.evaluation.result import Estimate
from diffusae.report.charts import trade_off
from diffusae.report.erasure import targets_of
from diffusae.report.page import render_page
from diffusae.report.sections.erasure import verdicts
from diffusae.report.study import EditedPicture, ErasureRun, Example, Examples, FinishedStudy
from report.rows import data_of, figure, measured, result

CELL = "text_2-t1.00-cond-k32"
NAN = float("nan")
MARKUP = "<b>fish</b>"


def point(
    defence: str, strength: float, kind: str, measure: str, value: float, **other: Any
) -> ErasurePoint:
    known = not np.isnan(value)
    figure = Estimate(value, (value - 0.1, value + 0.1), 24) if known else Estimate(None)
    variant = CELL if defence == "text_edit" else ""
    place = (MARKUP, variant, defence, strength, "test", kind, measure)
    return replace(ErasurePoint.of(place, figure), **other)


POINTS = [
    point("text_edit", 0.5, "plain", "found", 0.75),
    point("text_edit", 0.5, "others", "aligned", 0.95),
    point("text_edit", 1.0, "plain", "found", 0.125),
    point("text_edit", 1.0, "others", "aligned", 0.875),
    point("text_edit", 1.0, "synonym", "found", 0.0625),
    point("text_edit", 1.0, "plain", "found", 0.3125, variant="text_1-t1.00-cond-k32", n=12),
    point("text_edit", 1.0, "plain", "found", 0.9999, split="tune"),
    point("none", 0.0, "plain", "found", 0.9375),
    point("none", 0.0, "others", "aligned", 0.9),
    point("none", 0.0, "others", "kernel_distance", NAN),
]
TOKENS = [
    SearchedTokens(
        target=MARKUP,
        kind="tokens_defended",
        defence="text_edit",
        strength=1.0,
        tokens="moon a",
        loss=0.25,
        start=0.5,
        queries=65,
    )
]


@pytest.fixture
def run() -> ErasureRun:
    image = np.zeros((4, 4, 3), np.uint8)
    pictures = [
        EditedPicture("no_edit", 0.0, False, image),
        EditedPicture("text_edit", 1.0, True, image),
    ]
    examples = Examples(
        "erasure",
        "whole",
        (1.0, 0.0),
        ["text_2"],
        1.0,
        "cond",
        "k32",
        [Example("fish to go", "a fish", pictures)],
    )
    return ErasureRun(CELL, POINTS, {MARKUP: {"none": 0.0, "text_edit": 1.0}}, TOKENS, examples)


def test_a_curve_has_a_point_a_strength_and_the_chosen_one_is_told_apart(run):
    (target,) = targets_of(run)
    assert list(target.curves) == ["none", "text_edit"]
    assert [
        (point.strength, point.attack.value, point.aligned.value, point.chosen)
        for point in target.curves["text_edit"]
    ] == [(0.5, 0.75, 0.95, False), (1.0, 0.125, 0.875, True)]


def test_the_table_has_chosen_strengths_alone_and_leaves_out_what_is_no_data(run):
    (target,) = targets_of(run)
    none, own = target.lines
    assert target.kinds == ["plain", "synonym"]
    assert set(none.attacks) == {"plain"}
    assert own.attacks["synonym"].value == 0.0625
    assert none.harms["kernel_distance"].value is None


def test_a_target_is_erased_where_fewer_prompts_show_it_by_whole_intervals(run):
    (verdict,) = verdicts(FinishedStudy("s", "m", erasures=[run]))
    assert verdict.claim == f"Steering away from {MARKUP} erases it"
    assert verdict.best is not None and verdict.best.rival is not None
    assert verdict.best.lead is not None
    assert (verdict.holds, verdict.best.own.value, verdict.best.rival.value) == (
        True,
        0.125,
        0.9375,
    )
    assert verdict.best.lead == pytest.approx(0.8375 - 0.225)  # the nearer ends
    points = [
        point("text_edit", 1.0, "plain", "found", 0.8) if p.strength == 1.0 else p for p in POINTS
    ]
    chosen = {MARKUP: {"none": 0.0, "text_edit": 1.0}}
    (kept,) = verdicts(FinishedStudy("s", "m", erasures=[ErasureRun(CELL, points, chosen)]))
    assert kept.holds is False
    assert not verdicts(FinishedStudy("s", "m"))[0].cases


def test_other_autoencoders_stand_behind_the_studys_own(run):
    (target,) = targets_of(run)
    assert [(variant.name, variant.strength) for variant in target.variants] == [
        (CELL, 0.5), (CELL, 1.0), ("text_1-t1.00-cond-k32", 1.0),
    ]  # fmt: skip
    alone = [row for row in POINTS if row.variant in ("", CELL)]
    assert targets_of(ErasureRun(CELL, alone, run.chosen))[0].variants == []


def test_harm_goes_to_the_right_and_attack_success_upwards(run):
    (target,) = targets_of(run)
    layers = trade_off(target).to_dict()
    (data,) = data_of(layers)
    points = [(d["name"], d["harm"], d["value"], d["chosen"]) for d in data]
    assert points == [
        ("none", pytest.approx(0.1), 0.9375, True),
        ("text edit", pytest.approx(0.05), 0.75, False),
        ("text edit", 0.125, 0.125, True),
    ]
    assert (layers["layer"][1]["encoding"]["x"]["field"], layers["title"]) == (
        "harm",
        f"{MARKUP} is to go",
    )


def test_the_page_shows_figures_tokens_and_pictures_and_escapes_names(run):
    rows = [result("text_2", 1.0, "cond", figure(0.125, (0.0, 0.3), 24), metric="erasure_fish")]
    page = render_page(
        measured(FinishedStudy("steerers", "miniature", results=rows, erasures=[run]))
    )
    for text in (
        "0.12",
        "0.06",
        "moon a",
        "Other layers, widths and k (3)",
        "fish to go",
        'id="erasure"',
    ):
        assert text in page
    assert MARKUP not in page
    assert "0.9999" not in page
    assert 'id="erasure"' not in render_page(FinishedStudy("steerers", "miniature"))
