"""How the report and W&B show a metric: the part of a metric that is made of words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from diffusae.errors import unknown

SectionName = Literal[
    "composition",
    "quality",
    "truth",
    "knowledge",
    "decisions",
    "interventions",
    "steering",
    "erasure",
    "grid",
]
"""The sections of the report that show metrics, by their anchors."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A metric in words. One metric may give several rows of results, such as `cohesion` and
    `separability`.

    Attributes:
        name: the metric's own.
        title: what it asks, in one sentence; it stands above the tables of its rows.
        section: where the report shows its rows.
        chart: the title of a row's chart over the grid, by the row's name; None: no chart.
        seeded: whether its figures depend on the seed of the cell's autoencoder, so that those of
            several are joined (`stability.seeds`).
        claims: {name of a row: a sentence}, which the report judges by the row and its baselines.

    Raises:
        UserError: a section that the report does not have.
    """

    name: str
    title: str
    section: SectionName
    chart: Callable[[str], str | None] = lambda row: None
    seeded: bool = False
    claims: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.section not in get_args(SectionName):
            raise unknown(f"section of metric {self.name}:", self.section, get_args(SectionName))


@dataclass(frozen=True)
class Shows:
    """All metrics, and which of them made each row.

    Attributes:
        metrics: in the order of the page.
        made_by: {name of a row: name of its metric}.
    """

    metrics: Sequence[Shown] = ()
    made_by: Mapping[str, str] = field(default_factory=dict)

    def of(self, row: str) -> Shown | None:
        """The metric that made a row; None where it is not known any more, as of a plug-in that was
        removed.
        """
        made_by = self.made_by.get(row)
        return next((metric for metric in self.metrics if metric.name == made_by), None)

    def section(self, row: str) -> SectionName:
        """The section that shows a row."""
        metric = self.of(row)
        return "grid" if metric is None else metric.section

    def charts(self, wanted: Callable[[Shown], bool]) -> dict[str, str]:
        """The rows of the wanted metrics that have a chart, with its title, metric by metric."""
        return {
            row: title
            for metric in self.metrics
            if wanted(metric)
            for row, made_by in self.made_by.items()
            if made_by == metric.name and (title := metric.chart(row)) is not None
        }
