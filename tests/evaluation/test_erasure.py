"""Shares of erasure and harm, by hand."""

from typing import Any

import pandas as pd
import pytest

from diffusae.evaluation.erasure import (
    COLUMNS,
    ErasurePoint,
    balance,
    chosen_strength,
    erasure_results,
    harm,
    points,
)
from diffusae.evaluation.result import Estimate

NAN = float("nan")
CELL = {"model": "m", "block": "text_2", "t": 1.0, "conditioning": "cond"}


def rows(
    defence: str, strength: float, plain: str, aligned: str, *, split="test", kind="plain"
) -> list[dict[str, Any]]:
    """`plain` and `aligned` as 1 and 0, a picture a character; "-" is no data."""
    variant = "text_2-k4" if defence == "text_edit" else ""
    place = {"target": "fish", "variant": variant, "defence": defence, "strength": strength,
             "split": split}  # fmt: skip
    none = {"nouns_found": NAN, "style_reached": NAN, "aligned": NAN}
    asked = [
        {**place, "kind": kind, "image_id": f"p{n}", "prompt": "a fish", "found": shown == "1"}
        for n, shown in enumerate(plain)
    ]
    others = []
    for n, right in enumerate(aligned):
        value = NAN if right == "-" else float(right)
        picture = {"kind": "others", "image_id": f"o{n}", "prompt": "a boat", "found": False}
        harms = {"nouns_found": 0.5, "style_reached": value, "aligned": value}
        others.append({**place, **picture, **harms})
    return [{**row, **none} for row in asked] + others


TRIALS: Any = pd.DataFrame([
    *rows("none", 0, "1111", "1111"),
    *rows("text_edit", 1, "0001", "1110"),
    *rows("text_edit", 1, "0111", "", kind="synonym"),
    *rows("text_edit", 2, "0000", "1000"),
    *rows("text_edit", 2, "0000", "1000", split="tune"),
    *rows("text_edit", 1, "0001", "11-1", split="tune"),
])  # fmt: skip


def test_the_table_has_its_columns():
    assert tuple(TRIALS.columns) == COLUMNS


def test_balance_weighs_erased_and_aligned_alike():
    tested = TRIALS.query("split == 'test' and defence == 'text_edit' and strength == 1")
    assert balance(tested) == pytest.approx((0.75 + 0.75) / 2)
    assert balance(TRIALS[TRIALS["defence"] == "none"]) == pytest.approx(0.5)


def test_a_strength_is_chosen_on_the_given_rows():
    tune = TRIALS[TRIALS["split"] == "tune"]
    # Strength 1: (.75 + 1) / 2 = .875 of the three with data; strength 2: (1 + .25) / 2.
    assert chosen_strength(tune, [2, 1]) == (1, {"1": 0.875, "2": 0.625})
    alike = pd.DataFrame([*rows("text_edit", 1, "0", "1"), *rows("text_edit", 2, "0", "1")])
    assert chosen_strength(alike, [2, 1])[0] == 1


def test_no_data_does_not_count():
    assert harm(pd.DataFrame(rows("none", 0, "", "1-0-")), "style_reached").n == 2
    assert harm(pd.DataFrame(rows("none", 0, "", "--")), "aligned") == Estimate(None)


def all_trials() -> list[ErasurePoint]:
    distances = {("fish", "", "none", 0.0): Estimate(0.0, (0.0, 0.1), 4)}
    return points(TRIALS, distances)


def test_a_point_has_its_value_interval_and_n():
    (point,) = [point for point in all_trials() if point.kind == "synonym"]
    assert (point.measure, point.value, point.n) == ("found", 0.75, 4)
    assert point.low < 0.75 < point.high
    assert point.estimate == Estimate(0.75, (point.low, point.high), 4)
    harms = {"nouns_found", "style_reached", "aligned"}
    assert {point.measure for point in all_trials()} == {"found", "kernel_distance", *harms}


def test_rows_compare_the_own_defence_with_the_others_on_the_test_split():
    chosen = {"none": ("", "none", 0.0), "text_edit": ("text_2-k4", "text_edit", 1.0)}
    options = {"target": "fish", "own": "text_edit", "chosen": chosen}
    results = erasure_results(all_trials(), cell=CELL, details={"x": 1}, **options)
    by = {row.metric: row for row in results}
    plain = by["erasure_fish_plain"]
    assert (plain.value, plain.estimate.n, plain.baselines["none"].value) == (0.25, 4, 1.0)
    assert not plain.higher_is_better
    assert plain.details["strengths"] == {"none": 0.0, "text_edit": 1.0}
    assert by["erasure_fish_synonym"].baselines == {}
    assert by["erasure_fish_others_aligned"].value == 0.75
    assert by["erasure_fish_others_kernel_distance"].value is None
    assert by["erasure_fish_others_kernel_distance"].baselines["none"].value == 0.0
    assert all(row.cell == CELL and row.details["x"] == 1 for row in results)
