"""Cohesion and separability at one cell, from its dictionary's counts and the configured
embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import pandas as pd
import torch

from diffusae.concepts.dictionary import ConceptDictionary
from diffusae.concepts.embeddings import WordEmbedding, embed_labels
from diffusae.evaluation.cohesion import Items, cohesion_results
from diffusae.evaluation.metric_settings import Count, MetricSettings
from diffusae.evaluation.result import Result
from diffusae.labelling.label import word_embedding
from diffusae.metrics.metric import Embedding, Metric
from diffusae.report.tables import capital, plain
from diffusae.settings import Within
from diffusae.study.study import Study, build


@dataclass(frozen=True, kw_only=True)
class CohesionSettings(MetricSettings):
    """`conf/evaluation/cohesion.yaml`."""

    also: Mapping[str, Any] | None
    """Further embeddings, by the name that their rows end in."""
    minimum_items: Count
    """The fewest objects that a concept must have gained."""
    minimum_object_labels: Annotated[int, Within(0, 10**9)]
    """The fewest labels of objects that all concepts together must have gained."""
    leave_out: tuple[str, ...]
    """Labels that are no objects."""
    n_shuffles: Count
    n_resamples: Count


def cohesion_rows(study: Study, settings: CohesionSettings, embedding: Embedding) -> list[Result]:
    """Cohesion and separability in the study's embedding, then in every further one.

    Labels that an embedding does not know are left out, and those of `leave_out`.
    """
    rows = _rows(study, settings, embedding())
    for name, node in (settings.also or {}).items():
        further = _rows(study, settings, word_embedding(study, node))
        rows += [replace(row, metric=f"{row.metric}_{name}") for row in further]
    return rows


def _rows(study: Study, settings: CohesionSettings, words: WordEmbedding) -> list[Result]:
    return cohesion_of(
        ConceptDictionary.load(study.concepts).table,
        words,
        build(study.cfg.annotator, "annotator").labels,
        settings,
        cell=study.cell.coordinates(),
        seed=study.seed,
    )


def cohesion_of(
    table: pd.DataFrame,
    words: WordEmbedding,
    vocabulary: Sequence[str],
    settings: CohesionSettings,
    *,
    cell: Mapping[str, Any],
    seed: int,
) -> list[Result]:
    """The two rows of a dictionary's table in one embedding; `vocabulary`: the annotator's."""
    labels, vectors = embed_labels(words, sorted(set(table["label"]) - set(settings.leave_out)))
    column = {label: index for index, label in enumerate(labels)}
    known = table[table["label"].isin(labels)]
    latents = sorted(set(known["latent"].tolist()))
    row = {latent: index for index, latent in enumerate(latents)}
    counts = torch.zeros(len(latents), len(labels), dtype=torch.long)
    for latent, label, count in zip(
        *(known[name] for name in ("latent", "label", "count")), strict=True
    ):
        counts[row[latent], column[label]] = count
    return cohesion_results(
        Items(counts, vectors),
        vocabulary=embed_labels(words, vocabulary)[1],
        objects=torch.tensor([label in vocabulary for label in labels], dtype=torch.bool),
        minimum_object_labels=settings.minimum_object_labels,
        embedding=words.name,
        cell=cell,
        minimum_items=settings.minimum_items,
        n_shuffles=settings.n_shuffles,
        n_resamples=settings.n_resamples,
        seed=seed,
    )


def _chart(row: str) -> str | None:
    """Figures of a further embedding are never in one chart with the first one's."""
    name, _, embedding = row.partition("_")
    if not embedding:
        return _CHARTS.get(name)
    return f"{capital(name)}, in {_EMBEDDINGS.get(embedding, plain(embedding))}"


_CHARTS = {
    "cohesion": "Cohesion: cosine of a concept's objects with their mean",
    "separability": "Separability: cosine of different concepts",
}
_EMBEDDINGS = {"text_encoder": "the model's own text space"}
METRIC = Metric(
    name="cohesion",
    title="How alike are a concept's objects, and how unlike those of other concepts?",
    section="quality",
    chart=_chart,
    claims={
        "cohesion": "The objects of a concept are alike",
        "separability": "Concepts differ from one another",
    },
    seeded=True,
    settings=CohesionSettings,
    rows=cohesion_rows,
    made_from=("label",),
    needs="pictures",
)
