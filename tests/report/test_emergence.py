from typing import Any

import pytest

from diffusae.errors import UserError
from diffusae.evaluation.result import Estimate, Result
from diffusae.report.charts import emergence
from diffusae.report.emergence import curves_of
from report.rows import data_of, emerged, figure

VALUES = {1.0: 0.1, 0.5: 0.2, 0.0: 0.4}
READERS = {"noun_probe": figure(0.7, (0.6, 0.8), 7), "flat_curve": figure(1.0, None, 7)}


def rows() -> list[Result]:
    return [
        emerged("up", "uncond", VALUES, figure(None)),
        emerged("up", "cond", VALUES, figure(0.1, (0.05, 0.2), 7), readers=READERS),
        emerged("mid", "cond", {1.0: 0.3, 0.0: 0.5}, figure(0.25, None, 7), readers=READERS),
    ]


def test_curves_are_ordered_by_block_and_branch_whatever_the_order_of_the_rows() -> None:
    assert [curve.name for curve in curves_of(rows())] == ["mid · cond", "up · cond", "up · uncond"]


def drawn(rows: list[Result]) -> tuple[dict[str, Any], list[list[dict[str, Any]]]]:
    """The specification, and its sets of data."""
    spec = emergence(curves_of(rows)).to_dict()
    return spec, data_of(spec)


def test_a_curve_is_a_line_in_the_colour_of_its_block_with_time_from_one_to_zero() -> None:
    spec, data = drawn(rows())
    above, below = spec["vconcat"]
    points = [(d["t"], d["value"]) for d in data[0] if d["name"] == "up · cond"]
    assert points == [(1.0, 0.1), (0.5, 0.2), (0.0, 0.4)]
    line = next(layer for layer in above["layer"] if layer["mark"]["type"] == "line")
    assert line["encoding"]["color"]["scale"] == {
        "domain": ["mid", "up"],
        "range": ["#d55e00", "#009e73"],
    }
    left, right = line["encoding"]["x"]["scale"]["domain"]
    assert left > 1.0 > 0.0 > right
    assert line["encoding"]["strokeDash"]["scale"]["domain"] == ["cond", "uncond"]
    lowest = next(layer for layer in below["layer"] if layer["mark"].get("shape") == "diamond")
    assert lowest["encoding"]["x"]["scale"]["domain"] == [left, right]
    assert lowest["encoding"]["x"]["title"] == "t at which 90 % of the last IoU is reached"


def test_the_moment_and_that_of_other_readers_stand_at_their_t() -> None:
    _, data = drawn(rows())
    moments = next(set_ for set_ in data if "after" in set_[0])
    assert [(d["name"], d["value"]) for d in moments] == [
        ("mid · cond", 0.25),
        ("up · cond", 0.1),
        ("up · uncond", None),
    ]
    assert (moments[1]["low"], moments[1]["high"]) == (0.05, 0.2)
    readers = next(set_ for set_ in data if "line" in set_[0])
    assert [(d["line"], d["name"], d["value"]) for d in readers] == [
        ("mid · cond", "noun probe", 0.7),
        ("up · cond", "noun probe", 0.7),
    ]
    assert [{"value": 0.14, "name": "chance"}] in data


def test_curves_of_several_saes_carry_their_tags() -> None:
    several = [
        emerged("mid", "cond", VALUES, figure(0.1, None, 7), tag=tag) for tag in ("k20", "k10")
    ]
    _, data = drawn(several)
    assert {d["name"] for d in data[0]} == {"mid · cond · k10", "mid · cond · k20"}


def test_rows_that_lack_a_field_are_refused() -> None:
    with pytest.raises(UserError, match="a row of emergence is incomplete"):
        curves_of([Result("emergence", Estimate(None), True, "t")])
