"""The sections of the report, one a feature: what it gathers, what it says of its claims, and its
template beside it.

A new section is one file here, its template `NAME.html.j2`, and its place in `page.SECTIONS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from diffusae.report.gathering import Source
from diffusae.report.pictures import PictureBook
from diffusae.report.study import Study
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


def _no_claims(_: Study) -> list[Verdict]:
    return []


@dataclass(frozen=True)
class Section:
    """One feature of the page.

    Attributes:
        name: its anchor, and its template `sections/NAME.html.j2`.
        title: in the page's navigation.
        view: what the template needs; None: the section is not shown.
        gather: the fields of `report.study.Study` that it fills from what is finished.
        verdicts: what the results say of its claims.
        metrics: names or patterns (`accuracy_*`) of the metrics whose tables stand in it. Of
            several sections that match, the longest pattern wins.
    """

    name: str
    title: str
    view: Callable[[Study, Books], View | None]
    gather: Callable[[Source], dict[str, Any]] = _nothing
    verdicts: Callable[[Study], list[Verdict]] = _no_claims
    metrics: Sequence[str] = ()


def section_of(metric: str, sections: Sequence[Section]) -> str:
    """The name of the section that shows a metric's table."""
    matches = [
        (len(pattern), -place, section.name)
        for place, section in enumerate(sections)
        for pattern in section.metrics
        if fnmatchcase(metric, pattern)
    ]
    return max(matches)[2]


def asks_something_else(study: Study) -> bool:
    """Whether a study without composition asks another question, so that "no data" of composition
    would say nothing.
    """
    read = any(row.metric.startswith("accuracy_") for row in study.results)
    return bool(read or study.erasures or study.strips)
