"""Differences case by case and the claims made of them, against hand-worked figures."""

from __future__ import annotations

import json
from collections.abc import Hashable
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusae.errors import UserError
from diffusae.evaluation.result import NO_DATA, Estimate, Result, bootstrap_mean
from diffusae.evaluation.three_stages import (
    CLAIMS,
    Answer,
    Staged,
    answered,
    difference_to,
    paired_difference,
    rises,
    standing,
)
from diffusae.parsing import typed

CELL = {"model": "miniature", "block": "down", "t": 0.8, "conditioning": "cond"}


def difference(own: dict, other: dict, pictures: dict | None = None) -> Estimate:
    pictures = pictures or {case: case for case in own}
    return paired_difference(own, other, pictures=pictures, n_resamples=400, seed=0)


def test_the_difference_is_the_mean_over_the_cases_that_both_have():
    own = {"a": 1.0, "b": 1.0, "c": 0.0, "only own": 1.0, "not measured": float("nan")}
    other = {"a": 0.0, "b": 1.0, "c": 0.0, "only other": 1.0, "not measured": 0.0}
    estimate = difference(own, other)
    assert estimate.value == pytest.approx(1 / 3)
    assert estimate.n == 3


def test_a_constant_difference_is_seen_where_the_methods_own_intervals_overlap():
    hard = np.linspace(0, 0.9, 12)  # how likely a case is, whatever the method
    own, other = ({str(i): value + gain for i, value in enumerate(hard)} for gain in (0.1, 0.0))
    estimate = difference(own, other)
    assert estimate.ci95 == pytest.approx((0.1, 0.1))
    above, below = (bootstrap_mean(list(values.values())).ci95 for values in (own, other))
    assert above is not None and below is not None
    assert above[0] < below[1]


def test_cases_of_one_picture_are_resampled_together():
    cases = [(picture, region) for picture in ("p0", "p1") for region in range(50)]
    own = {case: float(case[0] == "p0") for case in cases}
    other = dict.fromkeys(own, 0.0)
    assert difference(own, other, {case: case[0] for case in own}).ci95 == (0.0, 1.0)
    one = dict.fromkeys(own, "p0")
    assert difference(own, other, one).ci95 is None


def test_a_success_of_every_case_of_few_pictures_has_an_interval_with_width():
    cases: list[Hashable] = [(picture, region) for picture in range(5) for region in range(4)]
    own, other = dict.fromkeys(cases, 1.0), dict.fromkeys(cases, 0.0)
    pictures: dict[Hashable, Hashable] = {case: n // 4 for n, case in enumerate(cases)}
    low, high = paired_difference(own, other, pictures=pictures, of_shares=True).ci95 or (0, 0)
    # Wilson's interval of 5 of 5 begins at .5655: 2 x .5655 - 1.
    assert (low, high) == (pytest.approx(0.131, abs=1e-3), 1.0)


def test_without_a_common_case_there_is_no_difference():
    assert difference({"a": 1.0}, {"b": 1.0}) == NO_DATA


def test_a_constant_control_moves_the_figure_and_its_interval():
    assert difference_to(1.0, Estimate(0.75, (0.5, 0.875), 8)) == Estimate(-0.25, (-0.5, -0.125), 8)
    assert difference_to(1.0, NO_DATA) == NO_DATA


@pytest.mark.parametrize(
    ("ci95", "higher", "margin", "expected"),
    [
        ((0.01, 0.5), True, 0.1, "better"),
        ((0.01, 0.5), False, 0.1, "worse"),
        ((-0.5, -0.01), True, 0.1, "worse"),
        ((-0.5, -0.01), False, None, "better"),
        ((-0.05, 0.09), True, 0.1, "alike"),
        ((-0.05, 0.1), True, 0.1, "unclear"),
        ((-0.05, 0.09), True, None, "unclear"),
        ((0.0, 0.0), True, 0.1, "alike"),
        (None, True, 0.1, "unclear"),
    ],
)
def test_the_standing_follows_the_interval_and_the_direction(ci95, higher, margin, expected):
    assert standing(Estimate(0.0, ci95, 5), higher_is_better=higher, margin=margin) == expected


UP = Estimate(0.5, (0.3, 0.7), 9)
NOT, OPEN = Estimate(0.0, (-0.1, 0.05), 9), Estimate(0.1, (-0.1, 0.3), 9)


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        ([UP, UP], True),
        ([UP, NOT], False),
        ([OPEN, NOT], False),
        ([UP, OPEN], None),
        ([UP, Estimate(1.0, None, 1)], None),
        ([], None),
    ],
)
def test_a_success_rises_only_above_all_its_controls(differences, expected):
    assert rises(differences, margin=0.1) is expected


@given(low=st.floats(-1, 1), width=st.floats(0, 1), margin=st.floats(0.01, 0.5))
def test_a_wider_interval_never_turns_a_rise_into_its_opposite(low, width, margin):
    narrow = rises([Estimate(low, (low, low + width), 9)], margin=margin)
    wide = rises([Estimate(low, (low - 0.2, low + width + 0.2), 9)], margin=margin)
    assert wide is None or wide is narrow or (narrow is True and low + width + 0.2 < margin)


def row(
    window: str, edit: str, *differences: Estimate, measure: str = "success", t: float = 0.8
) -> Result:
    controls = zip(("no_edit", "random_latent"), differences, strict=False)
    staged = Staged(
        window=window,
        bounds=(1.0, 0.6),
        edit=edit,
        together=False,
        measure=measure,
        blocks=["down"],
        tag="k10",
        chance=None,
        differences=dict(controls),
        standing={},
    )
    estimate, cell = Estimate(0.9, (0.8, 1.0), 9), {**CELL, "t": t}
    return Result(f"{edit}_success", estimate, True, "share", cell, {}, staged.to_json())


def answer(rows: list[Result], window: str, edit: str) -> Answer:
    claims = answered(rows, margin=0.1)
    return next(claim for claim in claims if (claim.window, claim.edit) == (window, edit))


@pytest.mark.parametrize(
    ("cells", "can", "cannot"),
    [
        ([(UP, UP)], True, False),
        ([(UP, UP), (NOT, NOT)], True, False),
        ([(NOT, UP), (NOT, NOT)], False, True),
        ([(NOT, NOT), (UP, OPEN)], None, None),
        ([(UP,)], None, None),  # one of the controls was not compared
        ([], None, None),
    ],
)
def test_can_holds_where_some_cell_rises_and_cannot_where_none_does(cells, can, cannot):
    early = answer([row("early", "spatial", *values) for values in cells], "early", "spatial")
    middle = answer([row("middle", "spatial", *values) for values in cells], "middle", "spatial")
    assert (early.holds, middle.holds) == (can, cannot)
    assert len(early.cells) == len(cells)


def test_every_claim_is_judged_by_its_own_window_edit_and_success_alone():
    rows = [row("early", "spatial", NOT, NOT), row("early", "tone", UP, UP),
            row("early", "spatial", UP, UP, measure="kept")]  # fmt: skip
    answers = answered(rows, margin=0.1)
    assert [claim.holds for claim in answers] == [False, *[None] * 6]
    for claim, answer in zip(CLAIMS, answers, strict=True):
        assert asdict(answer).items() >= asdict(claim).items()


def test_a_cell_has_its_figure_and_its_lead_over_both_controls():
    (cell,) = answer([row("early", "spatial", UP, NOT, t=0.7)], "early", "spatial").cells
    assert (cell.cell.t, cell.own, cell.rises) == (0.7, Estimate(0.9, (0.8, 1.0), 9), False)
    assert cell.differences == {"no_edit": UP, "random_latent": NOT}


def test_a_claim_is_stored_as_a_flat_row_and_read_back():
    claim = answer([row("early", "spatial", UP, t=0.7)], "early", "spatial")
    stored = json.loads(json.dumps(asdict(claim)))
    assert list(stored) == ["window", "edit", "can", "text", "holds", "cells"]
    (cell,) = stored["cells"]
    assert list(cell)[3:] == ["value", "ci95", "n", "differences", "rises", "clusters"]
    assert cell["cell"] == {**CELL, "t": 0.7}
    assert cell["differences"] == {
        "no_edit": {**asdict(UP), "ci95": list(UP.ci95 or ())},
        "random_latent": None,
    }
    assert typed(Answer, stored) == claim
    with pytest.raises(UserError, match="go together"):
        typed(Answer, {**stored, "cells": [{**cell, "n": 0}]})
