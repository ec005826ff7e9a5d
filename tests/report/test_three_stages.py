from __future__ import annotations

from typing import Any

import pytest

from diffusae.errors import UserError
from diffusae.evaluation.result import Estimate, Result
from diffusae.report.charts import three_stages
from diffusae.report.style import block_colours
from diffusae.report.three_stages import lines_of, signed
from report.rows import data_of, figure, staged

CONTROLS = {"no_edit": figure(0.25, (0.1, 0.4), 24), "random_latent": figure(0.3, (0.2, 0.5), 24)}
MIDDLE: dict[str, Any] = {"window": "middle", "bounds": (0.6, 0.2), "t": 0.5}
FINAL: dict[str, Any] = {"window": "final", "bounds": (0.2, 0.0), "t": 0.1}


def rows() -> list[Result]:
    return [
        staged("style", figure(0.6, (0.4, 0.8), 16), **FINAL),
        staged("style", figure(0.9, (0.8, 1.0), 16), blocks=["down", "mid", "up"], **MIDDLE),
        staged("style", figure(0.8, (0.7, 0.9), 16), **MIDDLE),
        staged("style", figure(0.3, (0.2, 0.4), 16), measure="distance", **MIDDLE),
        staged("spatial", figure(0.35, (0.2, 0.5), 24), controls=CONTROLS, chance=0.25, **MIDDLE),
        staged("spatial", figure(0.95, (0.85, 1.0), 20), controls=CONTROLS, chance=0.25),
        staged("spatial", figure(0.05, (0.04, 0.06), 20), measure="distance"),
        staged("spatial", figure(0.75, (0.5, 1.0), 8), controls=CONTROLS, chance=0.25, t=1.0),
    ]


def drawn(measure: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The specification and its marks."""
    chart = three_stages(lines_of(rows()), measure)
    assert chart is not None
    spec = chart.to_dict()
    return spec, data_of(spec)[0]


def test_lines_run_from_the_first_window_to_the_last_whatever_the_order_of_the_rows() -> None:
    lines = lines_of(rows()[::-1])
    assert [(line.window, line.edit, line.t, line.together) for line in lines] == [
        ("early", "spatial", 1.0, False),
        ("early", "spatial", 0.8, False),
        ("middle", "spatial", 0.5, False),
        ("middle", "style", 0.5, False),
        ("middle", "style", 0.5, True),
        ("final", "style", 0.1, False),
    ]
    assert lines[4].place == "down + mid + up · t = 0.50 · cond"
    assert set(lines[1].measures) == {"success", "distance"}


def test_every_place_of_every_window_has_its_mark_at_its_value_from_left_to_right() -> None:
    spec, marks = drawn("success")
    own = [m for m in marks if m["name"].startswith("concepts")]
    assert [(m["edit"], m["window"], m["place"], m["value"]) for m in own] == [
        ("Spatial: success", "early (1 ≥ t ≥ 0.6)", "down 1.00", 0.75),
        ("Spatial: success", "early (1 ≥ t ≥ 0.6)", "down 0.80", 0.95),
        ("Spatial: success", "middle (0.6 ≥ t ≥ 0.2)", "down 0.50", 0.35),
        ("Style: success", "middle (0.6 ≥ t ≥ 0.2)", "down 0.50", 0.8),
        ("Style: success", "middle (0.6 ≥ t ≥ 0.2)", "down+mid+up 0.50", 0.9),
        ("Style: success", "final (0.2 ≥ t ≥ 0)", "down 0.10", 0.6),
    ]
    colours = spec["spec"]["layer"][1]["encoding"]["color"]["scale"]
    of_name = dict(zip(colours["domain"], colours["range"], strict=True))
    assert of_name["concepts, down"] == "#0072b2"
    assert of_name["concepts, blocks together"] not in block_colours(["down", "mid", "up"]).values()


def test_controls_and_chance_stand_beside_the_concepts_of_the_same_place() -> None:
    spec, marks = drawn("success")
    early = [m for m in marks if m["window"].startswith("early") and m["place"] == "down 0.80"]
    assert {m["name"]: m["value"] for m in early} == {
        "concepts, down": 0.95,
        "no edit": 0.25,
        "random latent": 0.3,
        "chance": 0.25,
    }
    encoding = spec["spec"]["layer"][1]["encoding"]
    shapes = dict(zip(*(encoding["shape"]["scale"][k] for k in ("domain", "range")), strict=True))
    assert shapes["concepts, down"] == "diamond"
    assert len({shapes[name] for name in ("no edit", "random latent", "chance")}) == 3
    assert not [m for m in marks if m["name"] == "chance" and m["edit"].startswith("Style")]


def test_change_has_its_own_unit_and_is_ssim_where_there_is_no_distance() -> None:
    spec, marks = drawn("change")
    assert [(m["edit"], m["value"]) for m in marks] == [
        ("Spatial: change of the rest (RMS)", 0.05),
        ("Style: share", 0.3),
    ]
    assert spec["resolve"]["scale"]["y"] == "independent"
    row = staged("style", figure(0.8, None, 16), measure="similarity", unit="SSIM")
    ssim = three_stages(lines_of([row]), "change")
    assert ssim is not None
    assert ssim.to_dict()["facet"]["row"]["sort"] == ["Style: SSIM"]


def test_a_mark_says_how_the_concepts_stand() -> None:
    standing = {
        "no_edit": "better",
        "random_latent": "worse",
        "neuron": "alike",
        "difference_of_means": "unclear",
    }
    (line,) = lines_of([staged("spatial", figure(0.9, None, 4), standing=standing)])
    assert [line.measures["success"].mark(name) for name in (*standing, "other")] == [
        "▲",
        "▼",
        "=",
        "?",
        "",
    ]


@pytest.mark.parametrize(
    ("difference", "text"),
    [
        (figure(0.7, (0.5, 0.9), 3), "+0.70 [+0.50, +0.90]"),
        (figure(-0.004, (-0.2, 0.001), 3), "0.00 [-0.20, 0.00]"),
        (figure(0.5, None, 1), "+0.50"),
        (figure(None), "no data"),
    ],
)
def test_a_difference_carries_its_sign(difference: dict[str, Any], text: str) -> None:
    assert signed(Estimate.from_json(difference)) == text


def test_a_row_that_lacks_a_field_is_refused() -> None:
    with pytest.raises(UserError, match="a row of the three-stage table is incomplete"):
        lines_of([Result("spatial_success", Estimate(None), True, "share")])
