from __future__ import annotations

from typing import Any

import pytest

from diffusae.errors import UserError
from diffusae.report.tables import details_text, headline, metric_tables, number, rows_of
from report.rows import CHANCE, figure, result

PRIOR = {"centre_prior": figure(0.22, (0.20, 0.24), 80)}
CEILING = {"annotator_ceiling": figure(0.91, (0.90, 0.92), 80)}


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
    del row["cell"]["t"]
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


def test_headline_says_that_the_interval_clears_every_baseline_and_no_ceiling_counts() -> None:
    own = figure(0.3127, (0.2819, 0.3431), 87)
    found = headline([result("mid", 1.0, "cond", own, baselines={**CHANCE, **PRIOR, **CEILING})])
    assert (
        found.finding == "Mid block, cond: IoU 0.31 [0.28, 0.34] at t = 1.00, n = 87; chance 0.14."
    )
    assert (
        found.verdict
        == "Its interval clears every baseline: chance 0.14 [0.12, 0.16], centre prior 0.22 [0.20,"
        " 0.24]."
    )
    assert found.cleared is True


def test_headline_says_which_baseline_the_interval_does_not_clear() -> None:
    own = figure(0.26, (0.23, 0.29), 87)
    found = headline([result("mid", 1.0, "cond", own, baselines={**CHANCE, **PRIOR})])
    assert (
        found.verdict
        == "Its interval does not clear centre prior 0.22 [0.20, 0.24]; it clears chance 0.14"
        " [0.12, 0.16]."
    )
    assert found.cleared is False


def test_headline_takes_the_first_step_of_mid_cond_even_where_others_are_better() -> None:
    cells = [
        ("down", 1.0, "cond"),
        ("mid", 0.0, "cond"),
        ("mid", 1.0, "uncond"),
        ("mid", 1.0, "cond"),
    ]
    values = (0.9, 0.8, 0.7, 0.2)
    rows = [result(*cell, figure(v, (v, v), 5)) for cell, v in zip(cells, values, strict=True)]
    found = headline(rows)
    assert found.finding.startswith("Mid block, cond: IoU 0.20 [0.20, 0.20] at t = 1.00")
    assert "Best of all: down, cond, t = 1.00, with 0.90" in found.overview


def test_headline_counts_the_cells_that_clear_chance_and_all_baselines() -> None:
    rows = [
        result(
            "mid",
            t,
            "cond",
            figure(low + 0.01, (low, low + 0.02), 9),
            baselines={**CHANCE, **PRIOR},
        )
        for t, low in ((1.0, 0.10), (0.5, 0.20), (0.0, 0.30))
    ]
    assert headline(rows).overview.startswith(
        "Of 3 cells 2 clear chance and 1 clear every baseline."
    )


@pytest.mark.parametrize("own", [figure(None), figure(0.4, None, 1)])
def test_headline_without_an_interval_claims_nothing(own: dict[str, Any]) -> None:
    found = headline([result("mid", 1.0, "cond", own, baselines=CHANCE)])
    assert found.cleared is None
    assert (
        found.verdict == "Without an interval and a baseline nothing can be said about this cell."
    )


def test_headline_without_rows_says_so() -> None:
    assert headline([]).finding == "No composition results yet."


def test_tables_keep_the_metrics_apart_and_list_every_baseline_once() -> None:
    rows = [
        result("mid", 1.0, "cond", figure(0.5, None, 1), baselines=CHANCE),
        result("mid", 0.0, "cond", figure(0.5, None, 1), baselines={**CHANCE, **PRIOR}),
        result("mid", 0.0, "cond", figure(9.0, None, 1), metric="l0"),
    ]
    found = [(table.metric, table.baselines, len(table.rows)) for table in metric_tables(rows)]
    assert found == [("composition", ["chance", "centre_prior"], 2), ("l0", [], 1)]


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
