"""A paper's figures beside ours: which figure answers to which row, and what is said where none
does.
"""

import csv
import io
import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from diffusae.errors import UserError
from diffusae.evaluation.result import Estimate, Result
from diffusae.report.comparison import (
    Ours,
    compare,
    comparison_csv,
    comparison_markdown,
    known_references,
    load_reference,
)

PAPER = load_reference("arxiv_2504_15473")


def ours(metric: str, value: float | None, block="mid", t=1.0, conditioning="cond", **more) -> Ours:
    ci95 = None if value is None else (value - 0.02, value + 0.02)
    cell = {"model": "sd14", "block": block, "t": t, "conditioning": conditioning}
    n = 0 if value is None else 5000
    return Ours(Result(metric, Estimate(value, ci95, n), True, "ratio", cell), **more)


def test_the_papers_tables_are_all_there():
    counts = Counter(row.table for row in PAPER.rows)
    assert counts == {
        "Reconstruction (Table 1)": 9 * 4 * 2,
        "Cohesion and separability": 6,
        "Composition": 1,
        "Spatial intervention": 3,
        "Global intervention": 15,
    }


@pytest.mark.parametrize(
    ("metric", "cell", "k", "value"),
    [
        ("scaled_mse", {"block": "down", "t": 0.0, "conditioning": "cond"}, 10, 0.6293),
        ("explained_variance", {"block": "up", "t": 1.0, "conditioning": "uncond"}, 20, 0.777),
        ("scaled_mse", {"block": "mid", "t": 0.5, "conditioning": "uncond"}, 10, 0.4909),
        ("cohesion", {"t": 0.5}, None, 0.639),
        ("separability", {"t": 0.0}, None, 0.344),
        ("spatial_success", {"block": "mid", "t": 0.5, "conditioning": "cond"}, None, 0.35),
        ("global_success", {"block": "mid", "t": 0.5, "conditioning": "cond"}, None, 0.93),
        ("lpips", {"block": "mid", "t": 1.0, "conditioning": "cond"}, None, 0.653),
        ("clip_gain", {"block": "mid", "t": 0.0, "conditioning": "cond"}, None, 0.006),
    ],
)
def test_single_figures_are_as_printed(metric, cell, k, value):
    values = [row.value for row in PAPER.rows if (row.metric, row.cell, row.k) == (metric, cell, k)]
    assert values == [value]


def test_scaled_mse_and_explained_variance_of_a_cell_fall_and_rise_together():
    """A slip in typing the table would break it: of 36 cells, the error falls from k=10 to 20 and
    variance rises.
    """
    values = {(row.metric, *row.cell.values(), row.k): row.value for row in PAPER.rows if row.k}
    for (metric, *cell, k), value in values.items():
        other = values[(metric, *cell, 30 - k)]
        assert (value < other) == ((metric == "scaled_mse") == (k == 20))
        if metric == "scaled_mse":
            assert abs(value + values[("explained_variance", *cell, k)] - 1) < 0.03


def test_the_guide_shows_the_same_table():
    page = (Path(__file__).parents[2] / "docs" / "reproduce.md").read_text(encoding="utf-8")
    columns = [("cond", 10), ("cond", 20), ("uncond", 10), ("uncond", 20)]
    shown = {}
    for block, t, *cells in re.findall(
        r"^\| (down|mid|up) (0|\.5|1)" + r" \| (\S+ / \S+)" * 4, page, re.M
    ):
        for (conditioning, k), cell in zip(columns, cells, strict=True):
            error, variance = map(float, cell.split(" / "))
            shown["scaled_mse", block, float(t), conditioning, k] = error
            shown["explained_variance", block, float(t), conditioning, k] = round(variance / 100, 4)
    assert shown == {
        (row.metric, *row.cell.values(), row.k): row.value for row in PAPER.rows if row.k
    }


def test_a_row_without_a_figure_of_ours_is_no_data():
    lines = compare(PAPER, [])
    assert len(lines) == len(PAPER.rows)
    assert all(
        line.ours is None and line.difference is None and line.within is None for line in lines
    )
    assert comparison_markdown(PAPER, lines, experiment="x").count("no data") == len(lines)


def test_difference_and_interval_are_ours_less_theirs():
    figures = [ours("scaled_mse", 0.40, k=10), ours("scaled_mse", 0.42, t=0.5, k=20)]
    lines = {(line.t, line.k): line for line in compare(PAPER, figures) if line.ours is not None}
    early = lines[1.0, 10]  # theirs 0.4182
    assert early.difference == pytest.approx(-0.0182)
    assert early.difference_ci95 == pytest.approx((-0.0382, 0.0018))
    assert early.within is True
    assert lines[0.5, 20].within is True  # theirs 0.4194
    assert set(lines) == {(1.0, 10), (0.5, 20)}


def test_another_k_block_branch_or_t_does_not_answer():
    figures = [
        ours("scaled_mse", 0.4, k=11),
        ours("scaled_mse", 0.4, block="side"),
        ours("scaled_mse", 0.4, t=0.3),
        ours("scaled_mse", 0.4, conditioning="both"),
        ours("fvu", 0.4),
    ]
    assert all(line.ours is None for line in compare(PAPER, figures))


def test_a_figure_without_a_k_answers_to_every_k_and_a_row_without_a_block_to_every_block():
    figures = [
        ours("scaled_mse", 0.4),
        *(ours("cohesion", 0.6, block=block, t=0.0) for block in ("down", "up")),
    ]
    lines = [line for line in compare(PAPER, figures) if line.ours is not None]
    assert [(line.metric, line.block) for line in lines] == [
        ("scaled_mse", "mid"), ("scaled_mse", "mid"), ("cohesion", "down"), ("cohesion", "up"),
    ]  # fmt: skip


def test_the_first_metric_that_has_figures_counts():
    both = [ours("style_rose", 0.5), ours("global_success", 0.7)]

    def of(figures):
        return [line.ours for line in compare(PAPER, figures) if line.metric == "global_success"]

    assert 0.7 in of(both) and 0.5 not in of(both)
    assert 0.5 in of(both[:1])
    assert 0.5 in of([both[0], ours("global_success", None)])


def test_csv_has_a_line_a_row_and_empty_fields_where_there_are_no_data():
    rows = list(
        csv.DictReader(io.StringIO(comparison_csv(compare(PAPER, [ours("style_lpips", 0.6)]))))
    )
    assert len(rows) == len(PAPER.rows)
    (row,) = [row for row in rows if row["ours"]]
    assert (row["metric"], row["theirs"], row["ci95_low"]) == ("lpips", "0.653", "0.58")
    assert all(row["difference"] == "" for row in rows if not row["ours"])


def test_another_model_than_the_papers_is_said():
    figure = ours("style_lpips", 0.6)
    cell = {**figure.result.cell, "model": "miniature"}
    other = replace(figure, result=replace(figure.result, cell=cell))
    page = comparison_markdown(PAPER, compare(PAPER, [other]), experiment="x")
    assert "another model (miniature)" in page
    assert "another model" not in comparison_markdown(
        PAPER, compare(PAPER, [figure]), experiment="x"
    )


def test_references_are_listed_and_a_broken_row_is_named(tmp_path):
    with pytest.raises(UserError, match=r"unknown reference '2504'.*arxiv_2504_15473"):
        load_reference("2504")
    assert "arxiv_2504_15473" in known_references()
    content = {
        "id": "x",
        "title": "",
        "source": "",
        "model": "m",
        "notes": [],
        "rows": [{"metric": "l0"}],
    }
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(content))
    with pytest.raises(
        UserError, match=r"mine.json, row 1: missing or unknown: cell, higher_is_better"
    ):
        load_reference(path)
    path.write_text("[]")
    with pytest.raises(UserError, match="is no reference"):
        load_reference(path)
