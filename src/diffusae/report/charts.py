"""The page's charts over the whole grid: which metrics get one, under which title, in which section."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from diffusae.report import plots, style

# metric -> title, in the order of the page.
GRID = {
    "composition": "Composition: IoU",
    "explained_variance": "Explained variance",
    "dead_fraction": "Dead fraction",
}
QUALITY = {
    "cohesion": "Cohesion: cosine of a concept's objects with their mean",
    "separability": "Separability: cosine of different concepts",
    "noun_entropy": "Nouns of a latent's top pictures: bits",
    "stability": "Stability over seeds: cosine",
    "loss_recovered": "Faithfulness: loss recovered",
    "picture_ssim": "Faithfulness: SSIM with the unedited picture",
    "usable": "Faithfulness: gate passed",
}
OF_QUALITY = {
    *QUALITY,
    "style_entropy",
    "context_free_fraction",
    "denoising_error_change",
    "picture_mse",
    "content_kept",
    "content_distance",
}
"""The metrics whose tables stand in the section of quality."""


@dataclass(frozen=True)
class Chart:
    """A chart and the title above it."""

    title: str
    drawing: Markup


def grid_charts(results: Sequence[Mapping[str, Any]], titles: Mapping[str, str]) -> list[Chart]:
    """A chart for each titled metric that has data in some cell."""
    found = {str(row["metric"]) for row in results if row["value"] is not None}
    return [
        Chart(title, _grid(results, metric, title)) for metric, title in titles.items() if metric in found
    ]


def _grid(results: Sequence[Mapping[str, Any]], metric: str, title: str) -> Markup:
    alt = f"{title} of every cell, a line a block and conditioning, a column a t; the tables have the values."
    return style.svg(plots.grid_heatmap(results, metric), name=metric, alt=alt)
