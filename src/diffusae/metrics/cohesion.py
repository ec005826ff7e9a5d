"""Cohesion and separability at one cell, from its dictionary's counts and the configured
embedding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from diffusae.concepts.dictionary import ConceptDictionary
from diffusae.concepts.embeddings import WordEmbedding, embed_labels
from diffusae.evaluation.cohesion import Items, cohesion_results
from diffusae.evaluation.result import Result
from diffusae.labelling.label import word_embedding
from diffusae.study.study import Study, build


def cohesion_rows(study: Study, embedding: Callable[[], WordEmbedding]) -> list[Result]:
    """Cohesion and separability in the study's embedding, then in each of `evaluation.also`, named
    after it.

    Labels that an embedding does not know are left out, and those of `leave_out`.
    """
    rows = _rows(study, embedding())
    for name, node in (study.cfg.evaluation.also or {}).items():
        rows += [
            replace(row, metric=f"{row.metric}_{name}")
            for row in _rows(study, word_embedding(study, node))
        ]
    return rows


def _rows(study: Study, words: WordEmbedding) -> list[Result]:
    table = ConceptDictionary.load(study.concepts).table
    settings = study.part("evaluation")
    labels, vectors = embed_labels(words, sorted(set(table["label"]) - set(settings["leave_out"])))
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
        vocabulary=embed_labels(words, build(study.cfg.annotator, "annotator").labels)[1],
        embedding=words.name,
        cell=study.cell.coordinates(),
        minimum_items=settings["minimum_items"],
        n_shuffles=settings["n_shuffles"],
        n_resamples=settings["n_resamples"],
        seed=study.cfg.seed,
    )
