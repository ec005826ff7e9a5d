"""The page: the sections in their order, put together and written.

The page needs nothing from the net: pictures, charts and their library are inside. Text from
outside is escaped by the templates; a Content-Security-Policy in the page forbids it to load
anything.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from diffusae.files import atomic_path
from diffusae.masking import masked
from diffusae.report import vega
from diffusae.report.gathering import Source
from diffusae.report.rendering import HERE, environment, rendered
from diffusae.report.sections import (
    Section,
    claims,
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

HEAVY = 12 * 2**20
SECTIONS = [
    module.SECTION
    for module in (
        claims,
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
CHARTS = [
    replace(section, gather=lambda _: {}) if section is knowledge.SECTION else section
    for section in SECTIONS
    if section.name not in ("prompts", "concepts", "pictures")
]
"""Those of figures, without the cards of latents: for these all held-out pictures would be read.
The explorer has pages of its own for what is not here.
"""

logger = logging.getLogger(__name__)


def page_of(
    source: Source, *, so_far: str = "", sections: Sequence[Section] = SECTIONS
) -> FinishedStudy:
    """All that these sections show of a study; `so_far`: see `FinishedStudy`."""
    fields: dict[str, object] = {"so_far": so_far}
    for section in sections:
        fields |= section.gather(source)
    return FinishedStudy(name=source.study.name, model=source.study.cfg.model.name, **fields)  # type: ignore[arg-type]


def render_page(study: FinishedStudy) -> str:
    """The whole page as HTML. The same study gives the same text.

    Raises:
        UserError: a row of results that lacks a field.
    """
    templates = environment()
    parts = rendered(study, SECTIONS, templates)
    page = templates.get_template("page.html.j2").render(
        study=study, asks=_asks(study), parts=parts
    )
    script = (HERE / "page.js").read_text(encoding="utf-8")
    library = vega.library() if parts.charts else ""
    # The scripts are the package's own: nothing in them is a secret to be masked.
    return (
        f"{masked(page)}<script>{library}</script>\n<script>{script}</script>\n</body>\n</html>\n"
    )


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
