"""Decision times in the report: the chart, the table, and a page that asks for nothing else."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from diffusae.errors import UserError
from diffusae.evaluation.proportion import share
from diffusae.evaluation.result import Estimate, Result
from diffusae.report.decisions import curves, decisions_of
from diffusae.report.page import render_page
from diffusae.report.study import FinishedStudy
from report.rows import data_of, measured

CELL = {"model": "miniature", "block": "mid", "t": 0.5, "conditioning": "cond"}


def rows(attribute: str, placement: str, time: Estimate, *counts: int) -> list[Result]:
    """The time's row with its curve at t = 1, .4 and 0, and a window's: `counts` of 4 captions."""
    shares = [share([n < count for n in range(4)]) for count in counts]
    about = {"attribute": attribute, "placement": placement, "log_snr_shift": 2.0, "steps": 25}
    about |= {"captions": 4, "pictures": 20}
    curve = [
        {"t": t, **vars(figure), "old": 0.0}
        for t, figure in zip((1.0, 0.4, 0.0), shares, strict=False)
    ]
    ending = f"{attribute}_{placement}"
    return [
        Result(f"decided_{ending}", time, True, "t", CELL, details=about | {"curve": curve}),
        Result(
            f"shown_early_{ending}",
            shares[3],
            True,
            "share",
            CELL,
            baselines={"old_caption": shares[2], "new_caption_ceiling": shares[0]},
            details=about | {"window": [1.0, 0.6]},
        ),
    ]


ROWS = [
    *rows("noun", "own", Estimate(0.3, (0.0, 0.4), 4), 4, 3, 0, 1),
    *rows("tone", "own", Estimate(None), 1, 1, 0, 2),
    *rows("noun", "moved_up", Estimate(0.7, (0.4, 1.0), 4), 3, 1, 0, 4),
]


def study_of(results: list[Result]) -> FinishedStudy:
    return measured(FinishedStudy("decided", "miniature", results=results))


def test_a_decision_has_its_curve_its_windows_and_both_ends_attribute_by_attribute() -> None:
    noun, moved, tone = decisions_of(ROWS)
    assert (noun.attribute, noun.placement, noun.time.value) == ("noun", "own", 0.3)
    assert [(t, value.value) for t, value in noun.curve] == [(1.0, 1.0), (0.4, 0.75), (0.0, 0.0)]
    assert (noun.new.value, noun.old.value, noun.captions, noun.pictures) == (1.0, 0.0, 4, 20)
    ((name, first, last, value),) = moved.windows
    assert (name, first, last, value.value) == ("early", 1.0, 0.6, 1.0)
    assert tone.time.value is None


def test_the_chart_has_a_panel_an_attribute_and_a_line_a_placement() -> None:
    spec = curves(decisions_of(ROWS)).to_dict()
    assert spec["facet"]["sort"] == ["noun", "tone"]
    (data,) = data_of(spec)
    line = [(d["t"], d["value"]) for d in data if d["name"] == "moved_up" and "value" in d]
    assert line == [(1.0, 0.75), (0.4, 0.25), (0.0, 0.0)]
    assert [(d["name"], d["t"]) for d in data if "moment" in d] == [("own", 0.3), ("moved_up", 0.7)]


def test_the_page_asks_for_decisions_alone_where_there_is_nothing_else() -> None:
    page = render_page(study_of(ROWS))
    assert 'id="decisions"' in page
    assert 'id="composition"' not in page
    assert "at which t the model decides" in page
    table = page.partition('<section id="decisions">')[2].partition("</section>")[0]
    lines = re.findall(r"<tr><td>(.*?)</tr>", table, flags=re.DOTALL)
    assert len(lines) == 3
    assert "moved up" in lines[1] and "log-SNR +2.00" in lines[1] and "0.70" in lines[1]
    assert "no data" in lines[2]


def test_a_page_without_decisions_has_no_such_section() -> None:
    assert 'id="decisions"' not in render_page(study_of([]))


def test_rows_that_lack_a_field_are_refused() -> None:
    broken = replace(ROWS[0], details={"attribute": "noun", "placement": "own"})
    with pytest.raises(UserError, match="a row of decisions is incomplete"):
        decisions_of([broken])
