"""Steering on the page: strips side by side, figures by strength, each in its place."""

from dataclasses import replace
from typing import Any

import numpy as np

from diffusae.evaluation.result import Estimate, Result
from diffusae.report.page import render_page
from diffusae.report.pictures import PictureBook
from diffusae.report.sections.steering import strength_lines, strip_tables
from diffusae.report.study import FinishedStudy, Run, Steered, Strip
from report.rows import measured

IMAGE = np.full((4, 4, 3), 120, np.uint8)


def strip(case: str, strengths: dict[float, bool | None], place: str = "text_2 · k32") -> Strip:
    pictures = [Steered(strength, success, IMAGE) for strength, success in strengths.items()]
    return Strip(case, "a flat <fish>", place, pictures, Run(f"steer/{case}"))


def share(value: float, n: int = 8) -> dict[str, Any]:
    return {"value": value, "ci95": [max(0.0, value - 0.25), min(1.0, value + 0.25)], "n": n}


def rows() -> list[Result]:
    """Towards alone: without an edit 0.125, at 0.5 0.375, at 1 0.875; objects kept 1, 0.875, 0.5. 1
    was chosen.
    """
    cell = {"model": "miniature", "block": "text_2", "t": 1.0, "conditioning": "cond"}
    shares = {
        "steering_towards": {"0": share(0.125), "1": share(0.875), "0.5": share(0.375)},
        "steering_towards_kept": {"0": share(1.0), "1": share(0.5), "0.5": share(0.875)},
    }
    return [
        Result(
            metric,
            Estimate.from_json(by["1"]),
            True,
            "share",
            cell,
            {"no_edit": Estimate.from_json(by["0"])},
            {"strength": 1.0, "by_strength": by},
        )
        for metric, by in shares.items()
    ]


def test_strips_over_the_same_strengths_share_a_table_by_rising_strength():
    strips = [
        strip("towards neon", {1.0: True, 0.0: False, -1.0: False}),
        strip("towards night", {-1.0: None, 0.0: None, 1.0: None}),
        strip("neon", {0.0: None, 0.3: None}),
        strip("towards fish", {-1.0: None, 0.0: None, 1.0: None}, place="text_1 · k32"),
    ]
    first, second, third = strip_tables(strips, PictureBook())
    assert (first.place, first.strengths) == ("text_2 · k32", [-1.0, 0.0, 1.0])
    assert [line[0].case for line in first.lines] == ["towards neon", "towards night"]
    drawn = [shown[0].success for shown in first.lines[0][1] if shown is not None]
    assert drawn == [False, False, True]
    assert second.strengths == [0.0, 0.3]
    assert third.place == "text_1 · k32"


def test_success_and_kept_objects_stand_by_strength_the_weakest_first():
    lines = strength_lines(rows())
    assert [
        (line.strength, line.success.value, line.kept and line.kept.value) for line in lines
    ] == [(0.0, 0.125, 1.0), (0.5, 0.375, 0.875), (1.0, 0.875, 0.5)]
    assert [line.chosen for line in lines] == [False, False, True]
    assert {line.direction for line in lines} == {"towards"}


def test_the_page_shows_them_in_a_section_of_their_own_and_escapes_prompts():
    study = FinishedStudy(
        "s", "miniature", results=rows(), strips=[strip("towards neon", {0.0: False, 1.0: True})]
    )
    page = render_page(measured(study))
    assert page.count('id="steering"') == 1
    assert "a flat &lt;fish&gt;" in page
    assert "λ = 1" in page
    assert "../steer/towards%20neon/run.json" in page
    assert page.count("Steering towards kept of every cell") == 1


def test_a_study_without_steering_has_no_such_section():
    assert 'id="steering"' not in render_page(replace(FinishedStudy("s", "miniature")))
