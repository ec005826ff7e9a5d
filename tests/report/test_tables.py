from typing import Any

import pytest

from diffusae.errors import UserError
from diffusae.report.tables import details_text, metric_tables, number, rows_of
from report.rows import CHANCE, figure, result

PRIOR = {"centre_prior": figure(0.22, (0.20, 0.24), 80)}


def test_rows_are_ordered_by_block_then_time_then_conditioning() -> None:
    cells = [("up", 1.0, "cond"), ("extra", 1.0, "cond"), ("down", 0.0, "cond")]
    cells += [("down", 1.0, "uncond"), ("down", 1.0, "cond"), ("mid", 0.5, "cond")]
    rows = rows_of([result(*cell, figure(None)) for cell in cells], "composition")
    assert [(row.block, row.t, row.conditioning) for row in rows] == [
        ("down", 1.0, "cond"),
        ("down", 1.0, "uncond"),
        ("down", 0.0, "cond"),
        ("mid", 0.5, "cond"),
        ("up", 1.0, "cond"),
        ("extra", 1.0, "cond"),
    ]


def test_a_row_without_a_field_is_refused() -> None:
    row = result("mid", 1.0, "cond", figure(None))
    del row.cell["t"]
    with pytest.raises(UserError, match=r"a row of composition is incomplete \(KeyError\('t'\)\)"):
        rows_of([row], "composition")


@pytest.mark.parametrize(
    ("own", "higher_is_better", "expected"),
    [
        (figure(0.3, (0.25, 0.35), 9), True, True),
        (figure(0.3, (0.24, 0.35), 9), True, False),  # it must lie above the upper end, 0.24
        (figure(0.1, (0.05, 0.15), 9), True, False),
        (figure(0.1, (0.05, 0.15), 9), False, True),
        (figure(0.1, (0.05, 0.20), 9), False, False),
        (figure(0.9, None, 1), True, None),
        (figure(None), True, None),
    ],
)
def test_a_baseline_is_cleared_when_the_intervals_lie_apart_on_the_better_side(
    own: dict[str, Any], higher_is_better: bool, expected: bool | None
) -> None:
    (row,) = rows_of(
        [result("mid", 1.0, "cond", own, baselines=PRIOR, higher_is_better=higher_is_better)],
        "composition",
    )
    assert row.clears(row.baselines["centre_prior"]) is expected


def test_tables_keep_the_metrics_apart_and_list_every_baseline_once() -> None:
    rows = [
        result("mid", 1.0, "cond", figure(0.5, None, 1), baselines=CHANCE),
        result("mid", 0.0, "cond", figure(0.5, None, 1), baselines={**CHANCE, **PRIOR}),
        result("mid", 0.0, "cond", figure(9.0, None, 1), metric="l0"),
    ]
    tables = [(table.metric, table.baselines, len(table.rows)) for table in metric_tables(rows)]
    assert tables == [("composition", ["chance", "centre_prior"], 2), ("l0", [], 1)]


def test_numbers_keep_their_decimals_and_zero_has_no_sign() -> None:
    assert [number(v) for v in (0.31249, 15.96, -0.0001, -0.5, None)] == [
        "0.312",
        "16.0",
        "0.000",
        "-0.500",
        "no data",
    ]


def test_nested_details_become_one_line() -> None:
    text = details_text(
        {"settings": {"top_n": 5, "centred": True}, "threshold": 0.4125, "n_pictures": 96}
    )
    assert text == "top n 5, centred True, threshold 0.412, n pictures 96"


def test_degenerate_maps_and_dictionaries_stand_beside_the_value() -> None:
    few = {"n_object_labels": 3, "n_other_labels": 457}
    given = [
        ({"n_flat_maps": 120, **few}, ["120 of 167 maps are flat"]),
        ({"n_flat_maps": 0}, []),
        ({"minimum_object_labels": 20, **few}, ["3 labels of objects, 457 others"]),
        ({"n_object_labels": 0, "n_other_labels": 9}, ["0 labels of objects, 9 others"]),
    ]
    for details, notes in given:
        one = result("mid", 1.0, "cond", figure(0.5, None, 167))
        one.details.update(details)
        (row,) = rows_of([one], "composition")
        assert row.notes == notes
