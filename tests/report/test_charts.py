"""The page's charts: what their specifications hold, and how they get into the page."""

import json
import re
from typing import Any

import numpy as np
import pytest

from diffusae.evaluation.result import Result
from diffusae.report import vega
from diffusae.report.charts import curves, grid, knowledge, three_stages
from diffusae.report.three_stages import CONTROLS, lines_of
from report.rows import CHANCE, data_of, figure, result, staged

# Before the fixture of `conftest.py` takes its place.
LIBRARY = vega.library
HOSTILE = '</script><script>alert(1)</script><!-- \u2028 {"a": \''


def rows() -> list[Result]:
    return [
        result("up", 0.0, "cond", figure(0.6, (0.5, 0.7), 5), baselines=CHANCE),
        result("up", 1.0, "cond", figure(0.3, None, 5), baselines=CHANCE),
        result("mid", 1.0, "uncond", figure(None), baselines=CHANCE),
    ]


def test_curves_have_a_panel_a_block_and_a_line_a_branch_and_baseline_over_falling_t() -> None:
    spec = curves(rows()).to_dict()
    (data,) = data_of(spec)
    assert spec["facet"]["sort"] == ["mid", "up"]
    own = [(d["t"], d["value"], d["low"], d["high"]) for d in data if d["name"] == "concepts, cond"]
    assert own == [(1.0, 0.3, 0.3, 0.3), (0.0, 0.6, 0.5, 0.7)]
    assert [(d["block"], d["value"], d["n"]) for d in data if d["name"] == "chance"] == [
        ("mid", 0.14, 80),
        ("up", 0.14, 80),
        ("up", 0.14, 80),
    ]
    encoding = spec["spec"]["layer"][1]["encoding"]
    assert encoding["color"]["scale"]["domain"] == ["concepts, cond", "concepts, uncond", "chance"]
    left, right = encoding["x"]["scale"]["domain"]
    assert left > 1.0 > 0.0 > right


@pytest.mark.parametrize("blocks", [1, 9])
@pytest.mark.parametrize("moments", [1, 50])
def test_curves_are_drawn_for_any_number_of_blocks_moments_and_baselines(
    blocks: int, moments: int
) -> None:
    many = [
        result(
            f"b{block}",
            step / moments,
            "cond",
            figure(0.5, None, 1),
            baselines={f"baseline {i}": figure(0.1, None, 1) for i in range(12)},
        )
        for block in range(blocks)
        for step in range(moments)
    ]
    assert len(data_of(curves(many).to_dict())[0]) == 13 * blocks * moments


def test_a_grid_has_a_square_a_cell_and_a_dash_where_there_is_no_data() -> None:
    (data,) = data_of(grid(rows(), "composition").to_dict())
    assert [(d["line"], d["t"], d["shown"]) for d in data] == [
        ("mid · uncond", "1.00", "–"),
        ("mid · uncond", "0.00", "–"),
        ("up · cond", "1.00", "0.30"),
        ("up · cond", "0.00", "0.60"),
    ]
    assert [d["strong"] for d in data] == [False, False, False, True]
    assert data[3]["baselines"] == "chance 0.140"


def test_accuracies_stand_by_task_and_reader_beside_random_weights() -> None:
    row = result(
        "mid",
        0.0,
        "cond",
        figure(0.7, (0.6, 0.8), 9),
        metric="accuracy_style_updates",
        baselines={"random_weights": figure(0.2, None, 9), "update_probe": figure(0.9, None, 9)},
    )
    row.details.update(task="style", reader="updates")
    (data,) = data_of(knowledge([row]).to_dict())
    assert [(d["task"], d["reader"], d["kind"], d["value"]) for d in data] == [
        ("style", "linear probe, updates", "read", 0.7),
        ("style", "linear probe, updates", "random weights", 0.2),
    ]


def test_interventions_stand_by_window_and_edit_with_every_control_and_chance() -> None:
    controls = dict.fromkeys(map(str, CONTROLS), figure(0.3, (0.2, 0.5), 24))
    lines = lines_of(
        [
            staged("spatial", figure(0.9, (0.8, 1.0), 20), controls=controls, chance=0.25),
            staged("spatial", figure(0.05, None, 20), measure="distance", unit="RMS"),
            staged("style", figure(0.6, None, 20), window="final", bounds=(0.2, 0.0), t=0.1),
        ]
    )
    success, change = (three_stages(lines, measure) for measure in ("success", "change"))
    assert success is not None and change is not None
    spec = success.to_dict()
    names = spec["spec"]["layer"][1]["encoding"]["shape"]["scale"]["domain"]
    assert names == [
        "concepts, down",
        "no edit",
        "random latent",
        "neuron",
        "difference of means",
        "chosen latents",
        "dictionary concepts",
        "chance",
    ]
    assert spec["facet"]["row"]["sort"] == ["Spatial: success", "Style: success"]
    assert spec["facet"]["column"]["sort"] == ["early (1 ≥ t ≥ 0.6)", "final (0.2 ≥ t ≥ 0)"]
    assert {d["name"]: d["value"] for d in data_of(spec)[0]}["chance"] == 0.25
    assert [d["value"] for d in data_of(change.to_dict())[0]] == [0.05]
    assert three_stages(lines[1:], "change") is None


def test_an_intervention_without_data_has_no_chance_beside_it_either() -> None:
    nothing = {"value": None, "ci95": None, "n": 0}
    chart = three_stages(lines_of([staged("spatial", nothing, chance=0.25)]), "success")
    assert chart is not None
    assert [(d["name"], d["value"]) for d in data_of(chart.to_dict())[0]] == [
        ("concepts, down", None),
        ("chance", None),
    ]


def test_what_stands_in_a_chart_cannot_end_its_script_and_comes_back_as_it_was() -> None:
    book = vega.ChartBook()
    element = book.chart(
        grid([result(HOSTILE, 0.0, HOSTILE, figure(0.5, None, 1))], "composition"), alt=HOSTILE
    )
    assert "<script" not in element
    text = str(book.data)
    inner = re.fullmatch(r'<script type="application/json" id="charts">(.*)</script>', text, re.S)
    assert inner is not None
    assert not set("<>&\u2028\u2029") & set(inner[1])
    (spec,) = json.loads(inner[1])
    assert data_of(spec)[0][0]["line"] == f"{HOSTILE} · {HOSTILE}"


def test_no_expression_of_a_chart_holds_text_from_outside() -> None:
    def expressions(part: Any) -> list[str]:
        if isinstance(part, dict):
            own = [part[key] for key in ("expr", "calculate", "filter", "test") if key in part]
            return [str(text) for text in own if isinstance(text, str)] + [
                text
                for key, value in part.items()
                if key != "datasets"
                for text in expressions(value)
            ]
        return (
            [text for entry in part for text in expressions(entry)]
            if isinstance(part, list)
            else []
        )

    hostile = [
        result(HOSTILE, t, HOSTILE, figure(0.5, None, 1), baselines={HOSTILE: figure(0.1, None, 1)})
        for t in (0.0, 1.0)
    ]
    staged_ = lines_of([staged(HOSTILE, figure(0.5, None, 1), window=HOSTILE, block=HOSTILE)])
    for chart in (curves(hostile), grid(hostile, "composition"), three_stages(staged_, "success")):
        assert chart is not None
        assert not any("alert" in text for text in expressions(chart.to_dict()))


def test_a_page_without_charts_has_no_data_of_charts() -> None:
    assert vega.ChartBook().data == ""


def test_the_library_is_whole_and_ends_no_script_and_a_chart_is_a_picture() -> None:
    text = LIBRARY()
    assert "window.vegaEmbed=" in text and "</script" not in text
    drawn = vega.pixels(grid(rows(), "composition"))
    assert (drawn.dtype, drawn.shape[2]) == (np.uint8, 3)
    assert (drawn[0, 0] == 255).all() and drawn.min() < 100
