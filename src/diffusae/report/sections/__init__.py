"""The sections of the report, one a feature: what it gathers, what it says of its claims, and its
template beside it.

A new section is one file here, its template `NAME.html.j2`, and its place in `page.SECTIONS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from diffusae.report.gathering import Source
from diffusae.report.pictures import PictureBook
from diffusae.report.study import FinishedStudy
from diffusae.report.vega import ChartBook
from diffusae.report.verdicts import Verdict


@dataclass(frozen=True)
class Books:
    """What the page shares: its pictures and its charts."""

    pictures: PictureBook
    charts: ChartBook


View = Mapping[str, Any]
"""What a section's template needs, by name."""


def _nothing(_: Any) -> dict[str, Any]:
    return {}


def _no_claims(_: FinishedStudy) -> list[Verdict]:
    return []


@dataclass(frozen=True)
class Section:
    """One feature of the page.

    Attributes:
        name: its anchor, and its template `sections/NAME.html.j2`.
        title: in the page's navigation.
        view: what the template needs; None: the section is not shown.
        gather: the fields of `report.study.FinishedStudy` that it fills from what is finished.
        verdicts: what the results say of claims that are not of one metric's row.
    """

    name: str
    title: str
    view: Callable[[FinishedStudy, Books], View | None]
    gather: Callable[[Source], dict[str, Any]] = _nothing
    verdicts: Callable[[FinishedStudy], list[Verdict]] = _no_claims


def asks_something_else(study: FinishedStudy) -> bool:
    """Whether a study without composition asks another question, so that "no data" of composition
    would say nothing.
    """
    read = any(
        row.metric.startswith("accuracy_") or study.shows.section(row.metric) == "decisions"
        for row in study.results
    )
    return bool(read or study.erasures or study.strips)
