"""The page: the sections in their order, put together and written.

The page needs nothing from the net: pictures, charts and their library are inside. Text from
outside is escaped by the templates; a Content-Security-Policy in the page forbids it to load
anything.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from diffusae.files import atomic_path
from diffusae.masking import masked
from diffusae.report import tables, vega
from diffusae.report.gathering import Source
from diffusae.report.pictures import PictureBook
from diffusae.report.sections import (
    Books,
    Section,
    composition,
    concepts,
    decisions,
    emergence,
    erasure,
    grid,
    interventions,
    knowledge,
    making,
    pictures,
    prompts,
    quality,
    steering,
    truth,
)
from diffusae.report.study import FinishedStudy
from diffusae.report.style import block_colours
from diffusae.report.three_stages import signed, window_text
from diffusae.report.verdicts import Verdict, case_of, finding_of, judged

HERE = Path(__file__).parent
HEAVY = 12 * 2**20
SECTIONS = [
    module.SECTION
    for module in (
        composition,
        knowledge,
        decisions,
        emergence,
        interventions,
        steering,
        erasure,
        grid,
        quality,
        truth,
        prompts,
        concepts,
        pictures,
        making,
    )
]
"""The page, from its first section to its last."""

logger = logging.getLogger(__name__)


def page_of(source: Source, *, so_far: str = "") -> FinishedStudy:
    """All that the page shows of a study; `so_far`: see `FinishedStudy`."""
    fields: dict[str, object] = {"so_far": so_far}
    for section in SECTIONS:
        fields |= section.gather(source)
    return FinishedStudy(name=source.study.name, model=source.study.cfg.model.name, **fields)  # type: ignore[arg-type]


def render_page(study: FinishedStudy) -> str:
    """The whole page as HTML. The same study gives the same text.

    Raises:
        UserError: a row of results that lacks a field.
    """
    environment = _environment()
    books = Books(PictureBook(), vega.ChartBook())
    views = {section: section.view(study, books) for section in SECTIONS}
    shown = [section for section in SECTIONS if views[section] is not None]
    by_section = _tables(study, shown)
    shared = {
        "study": study,
        "anchors": {section.name for section in shown},
        "block_colours": block_colours(
            tables.blocks_of(concept.block for concept in (*study.concepts, *study.pure))
        ),
    }
    rendered = [
        (
            section,
            Markup(
                environment.get_template(f"sections/{section.name}.html.j2").render(
                    **shared, **(views[section] or {}), tables=by_section[section.name]
                )
            ),
        )
        for section in shown
    ]
    verdicts = [
        verdict
        for section in SECTIONS
        for verdict in (*section.verdicts(study), *_claims(study, section.name))
    ]
    page = environment.get_template("page.html.j2").render(
        **shared,
        asks=_asks(study),
        sections=rendered,
        verdicts=verdicts,
        finding=finding_of(verdicts),
        definitions=books.pictures.definitions,
        charts=books.charts.data,
    )
    script = (HERE / "page.js").read_text(encoding="utf-8")
    library = vega.library() if books.charts.data else ""
    # The scripts are the package's own: nothing in them is a secret to be masked.
    return (
        f"{masked(page)}<script>{library}</script>\n<script>{script}</script>\n</body>\n</html>\n"
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


def _claims(study: FinishedStudy, section: str) -> list[Verdict]:
    """What the results say of the claims of a section's metrics."""
    return [
        judged(claim, section, map(case_of, tables.rows_of(study.results, row)))
        for metric in study.shows.metrics
        if metric.section == section
        for row, claim in metric.claims.items()
    ]


def _asks(study: FinishedStudy) -> str:
    """What the study asks, for the words at the top."""
    metrics = {row.metric for row in study.results}
    if "composition" in metrics:
        return "composition"
    if any(metric.startswith("accuracy_") for metric in metrics):
        return "knowledge"
    if metrics and all(study.shows.section(metric) == "decisions" for metric in metrics):
        return "decisions"
    return "text" if study.erasures or study.strips else "composition"


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader([HERE, HERE / "sections"]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
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
    return environment


def write_report(path: Path | str, study: FinishedStudy) -> None:
    """Write the page to `path` (index.html), atomically; a page above 12 MB gets a warning."""
    page = render_page(study).encode()
    if len(page) > HEAVY:
        logger.warning(
            "the report has %.1f MB, above %.0f MB: browsers will be slow; show fewer concepts or"
            " predictions",
            len(page) / 2**20,
            HEAVY / 2**20,
        )
    with atomic_path(path) as temporary:
        temporary.write_bytes(page)


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
