"""The page's charts over the whole grid: which metrics get one, under which title, in which
section.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from diffusae.report import plots, style
from diffusae.report.steering import METRICS as STEERING
from diffusae.report.tables import capital, plain

# metric -> title, in the order of the page.
GRID = {
    "composition": "Composition: IoU",
    "explained_variance": "Explained variance",
    "dead_fraction": "Dead fraction",
}
_SPATIAL = {
    "spatial_success": "Spatial interventions: success",
    "spatial_recognised": "Spatial interventions: still recognised",
    "spatial_rest_changed": "Spatial interventions: change of the rest",
    "spatial_sufficient_strength": "Spatial interventions: strength that suffices",
}
# How the names of global interventions end, after the factor that is changed.
_GLOBAL = {
    "rose": "score rose",
    "reached": "target reached",
    "kept": "objects kept",
    "similarity": "SSIM with the unedited picture",
    "feature_distance": "feature distance to the unedited picture",
    "lpips": "LPIPS to the unedited picture",
}
_TOGETHER = "_together"
_CHARTED = ("spatial_success", "_rose", "_reached")
QUALITY = {
    "cohesion": "Cohesion: cosine of a concept's objects with their mean",
    "separability": "Separability: cosine of different concepts",
    "noun_entropy": "Nouns of a latent's top pictures: bits",
    "stability": "Stability over seeds: cosine",
    "loss_recovered": "Faithfulness: loss recovered",
    "picture_ssim": "Faithfulness: SSIM with the unedited picture",
    "usable": "Faithfulness: gate passed",
}
# The same figures of another embedding, never in one chart with the first's.
_OTHER_EMBEDDINGS = ("cohesion_", "separability_")
_EMBEDDINGS = {"text_encoder": "the model's own text space"}
_OF_QUALITY = {
    *QUALITY,
    "style_entropy",
    "context_free_fraction",
    "denoising_error_change",
    "picture_mse",
    "content_kept",
    "content_distance",
}
"""The metrics whose tables stand in the section of quality, beside those of other embeddings."""


def quality_metrics(results: Sequence[Mapping[str, Any]]) -> set[str]:
    """The metrics among the rows whose tables stand in the section of quality."""
    metrics = {str(row["metric"]) for row in results}
    return {
        metric
        for metric in metrics
        if metric in _OF_QUALITY or metric.startswith(_OTHER_EMBEDDINGS)
    }


def quality_charts(results: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """The charts of that section; each embedding has its own."""
    titles: dict[str, str] = {}
    others = sorted(
        metric for metric in quality_metrics(results) if metric.startswith(_OTHER_EMBEDDINGS)
    )
    for metric, title in QUALITY.items():
        titles[metric] = title
        for other in others if metric == "separability" else ():
            name, _, embedding = other.partition("_")
            titles[other] = f"{capital(name)}, in {_EMBEDDINGS.get(embedding, plain(embedding))}"
    return grid_charts(results, titles)


def intervention_titles(results: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The metrics of interventions among the rows, in order of appearance, each with its title."""
    titles = {
        metric: _intervention_title(metric)
        for metric in dict.fromkeys(str(row["metric"]) for row in results)
    }
    return {metric: title for metric, title in titles.items() if title}


def intervention_charts(results: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """A chart of every success of interventions that has data."""
    titles = intervention_titles(results)
    shown = {
        metric: title
        for metric, title in titles.items()
        if metric.removesuffix(_TOGETHER).endswith(_CHARTED)
    }
    return grid_charts(results, shown)


def _intervention_title(metric: str) -> str:
    if metric in STEERING:
        return ""
    if metric in _SPATIAL:
        return _SPATIAL[metric]
    one = metric.removesuffix(_TOGETHER)
    for ending, words in _GLOBAL.items():
        if one.endswith(f"_{ending}"):
            factor = capital(plain(one.removesuffix(f"_{ending}")))
            return f"{factor}{', blocks together' if one != metric else ''}: {words}"
    return ""


@dataclass(frozen=True)
class Chart:
    """A chart and the title above it."""

    title: str
    drawing: Markup


def grid_charts(results: Sequence[Mapping[str, Any]], titles: Mapping[str, str]) -> list[Chart]:
    """A chart for each titled metric that has data in some cell."""
    found = {str(row["metric"]) for row in results if row["value"] is not None}
    return [
        Chart(title, _grid(results, metric, title))
        for metric, title in titles.items()
        if metric in found
    ]


def _grid(results: Sequence[Mapping[str, Any]], metric: str, title: str) -> Markup:
    alt = (
        f"{title} of every cell, a line a block and conditioning, a column a t; the tables have the"
        " values."
    )
    return style.svg(plots.grid_heatmap(results, metric), name=metric, alt=alt)
