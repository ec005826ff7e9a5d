"""Sections of a study as HTML, for any page that shows them: the report, and the explorer's charts.

A page around them needs the pictures that they share (`definitions`), their charts as data
(`charts`), and `page.js` with the charts' library (`report/vega.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from diffusae.report import tables, vega
from diffusae.report.pictures import PictureBook
from diffusae.report.sections import Books, Section
from diffusae.report.study import FinishedStudy
from diffusae.report.style import block_colours
from diffusae.report.three_stages import signed, window_text
from diffusae.report.verdicts import Finding, Verdict, case_of, finding_of, judged

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Rendered:
    """Sections of one study.

    Attributes:
        sections: those that have something to show, with their HTML, in order.
        verdicts: on the claims of all sections that were asked for.
        finding: what a page leads with.
        definitions: what pictures of several sections share, for one hidden SVG in the page.
        charts: the charts' data, as a script element that is no code; "" without charts.
    """

    sections: Sequence[tuple[Section, Markup]]
    verdicts: Sequence[Verdict]
    finding: Finding
    definitions: Markup
    charts: Markup

    @property
    def anchors(self) -> set[str]:
        """The ids of the sections."""
        return {section.name for section, _ in self.sections}


def rendered(
    study: FinishedStudy, sections: Sequence[Section], templates: Environment | None = None
) -> Rendered:
    """The sections without the page around them. The same study gives the same text.

    Args:
        templates: what `environment` gives, or an environment that was made from it.

    Raises:
        UserError: a row of results that lacks a field.
    """
    templates = templates or environment()
    books = Books(PictureBook(), vega.ChartBook())
    views = {section: section.view(study, books) for section in sections}
    shown = {section: view for section, view in views.items() if view is not None}
    by_section = _tables(study, list(shown))
    blocks = tables.blocks_of(concept.block for concept in (*study.concepts, *study.pure))
    shared = {
        "study": study,
        "anchors": {section.name for section in shown},
        "block_colours": block_colours(blocks),
    }

    def text(section: Section, view: Mapping[str, Any]) -> Markup:
        template = templates.get_template(f"sections/{section.name}.html.j2")
        return Markup(template.render(**shared, **view, tables=by_section[section.name]))

    verdicts = [
        verdict
        for section in sections
        for verdict in (*section.verdicts(study), *_claims(study, section.name))
    ]
    return Rendered(
        [(section, text(section, view)) for section, view in shown.items()],
        verdicts,
        _finding(study, verdicts),
        books.pictures.definitions,
        books.charts.data,
    )


def _tables(study: FinishedStudy, shown: Sequence[Section]) -> dict[str, list[tables.MetricTable]]:
    """The tables of all metrics, by the name of the section that shows them: "grid", which is
    always there, where their own section is not.
    """
    by_section: dict[str, list[tables.MetricTable]] = {section.name: [] for section in shown}
    for table in tables.metric_tables(study.results, study.shows):
        section = study.shows.section(table.metric)
        by_section[section if section in by_section else "grid"].append(table)
    return by_section


def _finding(study: FinishedStudy, verdicts: Sequence[Verdict]) -> Finding:
    """What the page leads with: the registered claims where they were judged."""
    judged_claims = study.judgement
    if judged_claims is None or judged_claims.registered is None:
        return finding_of(verdicts)
    stale = " They were changed since: this result is stale." if judged_claims.changed else ""
    note = f"Claims of {judged_claims.source}, on pictures that nothing was chosen on.{stale}"
    return Finding(f"{judged_claims.counted}.", note, None)


def _claims(study: FinishedStudy, section: str) -> list[Verdict]:
    """What the results say of the claims of a section's metrics."""
    return [
        judged(claim, section, map(case_of, tables.rows_of(study.results, row)))
        for metric in study.shows.metrics
        if metric.section == section
        for row, claim in metric.claims.items()
    ]


def environment() -> Environment:
    """The templates of pages, with what they write figures by. With the global `records` rows of
    figures link to the page of their run, which the report has not.
    """
    templates = Environment(
        loader=FileSystemLoader([HERE, HERE / "sections"]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.globals["records"] = False
    templates.filters.update(
        number=tables.number,
        interval=tables.interval,
        estimate=tables.text_of,
        plain=tables.plain,
        capital=tables.capital,
        details=tables.details_text,
        duration=duration,
        percent=percent,
        signed=signed,
        window=window_text,
    )
    return templates


def duration(seconds: float | None) -> str:
    """Such as "42 s", "3 min 20 s", "2 h 05 min"."""
    if seconds is None:
        return "–"
    if seconds < 9.5:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    return (
        f"{minutes} min {rest:02d} s"
        if minutes < 60
        else f"{minutes // 60} h {minutes % 60:02d} min"
    )


def percent(share: float | None) -> str:
    """Such as "2.1 %"; two figures that matter."""
    if share is None or not math.isfinite(share):
        return tables.NO_DATA
    return f"{100 * share:.2g} %" if 0 < share < 0.1 else f"{100 * share:.0f} %"
