"""Latent statistics at one cell, from the codes of the test pictures; no picture is made or decoded
again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from diffusae.concepts.annotations import Annotations
from diffusae.concepts.statistics import LatentStatistics
from diffusae.devices import default_device
from diffusae.evaluation.label_entropy import Votes
from diffusae.evaluation.latents import LatentJudging, latent_results, latent_table, stability_of
from diffusae.evaluation.metric_settings import Count, MetricSettings
from diffusae.evaluation.result import Result
from diffusae.labelling.codes import CodedSplit, code_source, coded_split
from diffusae.metrics.metric import Beside, Embedding, Metric
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.storage import load_sae
from diffusae.study.study import Study
from diffusae.table_files import write_table


@dataclass(frozen=True, kw_only=True)
class LatentSettings(LatentJudging, MetricSettings):
    """`conf/evaluation/latents.yaml`."""

    other_tag: str | None
    """The tag of another autoencoder of the cell, for their stability; None: no comparison."""
    n_resamples: Count


def latent_rows(study: Study, settings: LatentSettings, _embedding: Embedding) -> list[Result]:
    """Summary rows; the table of all latents is written beside them as latents.parquet."""
    sae, _ = load_sae(study.sae)
    source = code_source(study, sae)
    split, grid = coded_split(study, source, "test"), source.grid
    stability = random = None
    if settings.other_tag is not None:
        other, _ = load_sae(_other_sae(study, settings.other_tag))
        drawn = SparseAutoencoder(other.d_in, other.d_sae, other.sparsity, seed=study.seed)
        stability, random = stability_of(*(one.directions.detach() for one in (sae, other, drawn)))
    votes = _votes(Annotations.load(study.annotations), split.image_ids)
    table = latent_table(
        _statistics(split, sae.d_sae, grid, n_top=settings.n_top),
        votes=votes,
        judging=settings,
        stability=stability,
    )
    shuffled = _statistics(_with_shuffled_positions(split, study.seed), sae.d_sae, grid, n_top=1)
    write_table(study.evaluation("latents") / "latents.parquet", table)
    return latent_results(
        table,
        votes=votes,
        judging=settings,
        shuffled_position_share=shuffled["position_share"].tolist(),
        random_stability=None if random is None else random.tolist(),
        cell=study.cell.coordinates(),
        n_resamples=settings.n_resamples,
        seed=study.seed,
    )


def _other_sae(study: Study, tag: str) -> Path:
    return study.directory / "sae" / f"{study.cell.key}-{tag}"


def _others(study: Study, settings: LatentSettings) -> list[Beside]:
    """The autoencoder that stability compares with."""
    tag = settings.other_tag
    return [] if tag is None else [Beside("other", _other_sae(study, tag), "train")]


def _statistics(split: CodedSplit, d_sae: int, grid: tuple[int, int], *, n_top: int) -> Any:
    statistics = LatentStatistics(d_sae, grid, n_top=n_top, device=default_device())
    statistics.add(split.image_ids, split.values, split.indices)
    return statistics.table()


def _with_shuffled_positions(split: CodedSplit, seed: int) -> CodedSplit:
    """The same codes, each picture's positions in an order of its own."""
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(split.values.shape[1], generator=generator) for _ in split.image_ids]
    values, indices = (
        torch.stack([of_picture[order] for of_picture, order in zip(tensor, orders, strict=True)])
        for tensor in (split.values, split.indices)
    )
    return replace(split, values=values, indices=indices)


def _votes(annotations: Annotations, image_ids: list[str]) -> dict[str, Votes]:
    """The labels of every picture: the nouns that were found, and its style where the annotator
    knows styles.
    """
    styles = annotations.described.set_index("image_id")["style"]
    return {
        "noun": {image_id: sorted(annotations.masks.nouns(image_id)) for image_id in image_ids},
        "style": {
            image_id: [style] if isinstance(style := styles[image_id], str) else []
            for image_id in image_ids
        },
    }


METRIC = Metric(
    name="latents",
    title="What does each latent do over the test pictures: how often, where, for which labels?",
    section="quality",
    chart={
        "noun_entropy": "Nouns of a latent's top pictures: bits",
        "stability": "Stability over seeds: cosine",
    }.get,
    claims={
        "noun_entropy": "A latent's top pictures share their nouns",
        "stability": "Another seed finds the same latents",
        "context_free_fraction": "Latents say where, not only in which picture",
    },
    seeded=True,
    settings=LatentSettings,
    rows=latent_rows,
    made_from=("train", "annotate"),
    needs="pictures",
    beside=_others,
)
