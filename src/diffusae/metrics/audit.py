"""Every metric on subjects whose answer is known: does it tell an oracle from chance, and what is
the smallest difference that it can see?

A metric that makes new pictures cannot be audited from stored codes: `NOT_AUDITED` says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from diffusae.concepts.dictionary import ConceptDictionary, build_dictionary
from diffusae.concepts.embeddings import WordEmbedding, embed_labels
from diffusae.concepts.settings import DictionarySettings
from diffusae.concepts.statistics import LatentStatistics
from diffusae.devices import default_device
from diffusae.evaluation.composition import (
    ConceptSpace,
    Picture,
    Split,
    build_split,
    evaluate,
    settings_grid,
    tune,
)
from diffusae.evaluation.knowledge import knowledge_row
from diffusae.evaluation.label_entropy import Votes
from diffusae.evaluation.label_probe import Examples, linear_probe
from diffusae.evaluation.latents import latent_results, latent_table
from diffusae.evaluation.metric_settings import PART, MetricSettings
from diffusae.evaluation.purity import Labels as ClassLabels
from diffusae.evaluation.purity import purity_rows
from diffusae.evaluation.reconstruction import PictureSums
from diffusae.evaluation.result import Resampling, Result
from diffusae.metrics.cohesion import CohesionSettings, cohesion_of
from diffusae.metrics.composition import CompositionSettings
from diffusae.metrics.knowledge import KnowledgeSettings
from diffusae.metrics.latents import LatentSettings
from diffusae.metrics.purity import PuritySettings
from diffusae.metrics.reconstruction import ReconstructionSettings
from diffusae.metrics.subjects import SPLITS, Names, Subject

NOT_AUDITED = dict.fromkeys(
    (
        "faithfulness",
        "spatial",
        "global",
        "global_together",
        "steering",
        "erasure",
        "times",
        "decisions",
    ),
    "it makes new pictures, which stored codes cannot stand for",
)
"""Metrics without an audit, and why."""

AUDITED: Mapping[str, type[MetricSettings]] = {
    "composition": CompositionSettings,
    "cohesion": CohesionSettings,
    "latents": LatentSettings,
    "purity": PuritySettings,
    "knowledge": KnowledgeSettings,
    "reconstruction": ReconstructionSettings,
}
"""Metrics with an audit, beside truth itself, and their settings."""


def settings_of(metric: str, given: Mapping[str, Any]) -> Any:
    """The settings of an audited metric; `UserError` for values that it refuses."""
    return AUDITED[metric].of(OmegaConf.create({PART: {"name": metric, **given}}))


@dataclass(frozen=True, eq=False)
class Bench:
    """What audits of one cell share.

    Attributes:
        embedding: loads the word embedding.
        settings: of the audited metrics, by name.
        dictionary: how latents are labelled.
    """

    embedding: Callable[[], WordEmbedding]
    settings: Mapping[str, Any]
    dictionary: DictionarySettings
    cell: Mapping[str, Any]
    resampling: Resampling
    _made: dict[Subject, ConceptDictionary] = field(default_factory=dict)

    @cached_property
    def words(self) -> WordEmbedding:
        """The embedding, loaded once."""
        return self.embedding()

    def settings_of(self, metric: str) -> Any:
        """A metric's own settings."""
        return settings_of(metric, self.settings[metric])

    def dictionary_of(self, subject: Subject) -> ConceptDictionary:
        """The concept dictionary of a subject, made once."""
        if subject not in self._made:
            self._made[subject] = _dictionary(subject, self.words, self.dictionary)
        return self._made[subject]


@dataclass(frozen=True)
class Audit:
    """How one metric is audited.

    Attributes:
        metric: its name.
        oracle: the factors that its oracle has latents for; it asks for these alone.
        rows: its rows for a subject, by their own names.
    """

    metric: str
    oracle: tuple[str, ...]
    rows: Callable[[Bench, Subject], list[Result]]


def _dictionary(
    subject: Subject, words: WordEmbedding, settings: DictionarySettings
) -> ConceptDictionary:
    values, indices = subject.codes["dictionary"]
    pictures = subject.pictures["dictionary"]
    coded = zip(pictures.image_ids, values, indices, pictures.seen, strict=True)
    return build_dictionary(
        ((image_id, (v, i), seen.masks) for image_id, v, i, seen in coded),
        settings,
        d_sae=subject.d_sae,
        grid=subject.grid,
        embedding=words,
    )


def composition_rows(bench: Bench, subject: Subject) -> list[Result]:
    """Mean IoU, with the dictionary and the thresholds of this subject."""
    settings = bench.settings_of("composition")
    known, vectors = embed_labels(bench.words, subject.names.labels)
    dictionary = bench.dictionary_of(subject)
    space = ConceptSpace(
        d_sae=subject.d_sae,
        latents=dictionary.embedded_latents,
        embeddings=dictionary.embeddings,
        nouns=dict(zip(known, vectors, strict=True)),
        centre=vectors.mean(dim=0),
    ).to(default_device())

    def objects(split: str) -> Split:
        pictures, (values, indices) = subject.pictures[split], subject.codes[split]
        shown = zip(pictures.image_ids, values, indices, pictures.named, pictures.seen, strict=True)
        made = [Picture(name, v, i, nouns, seen.masks) for name, v, i, nouns, seen in shown]
        return build_split(made, grid=subject.grid, known_nouns=known).to(default_device())

    tuned = tune(objects("tune"), space, settings_grid(**vars(settings.settings)))
    row, _ = evaluate(
        objects("test"), space, tuned, cell=bench.cell, baselines={}, **bench.resampling
    )
    return [row]


def cohesion_rows(bench: Bench, subject: Subject) -> list[Result]:
    """Cohesion and separability of this subject's dictionary."""
    return cohesion_of(
        bench.dictionary_of(subject).table,
        bench.words,
        subject.names.labels,
        bench.settings_of("cohesion"),
        cell=bench.cell,
        seed=bench.resampling.get("seed", 0),
    )


def latent_rows(kind: str, bench: Bench, subject: Subject) -> list[Result]:
    """Entropy of the labels of one kind, noun or style, and with nouns also which latents are
    context-free.
    """
    settings = bench.settings_of("latents")
    pictures, (values, indices) = subject.pictures["test"], subject.codes["test"]
    statistics = LatentStatistics(subject.d_sae, subject.grid, n_top=settings.n_top)
    statistics.add(pictures.image_ids, values, indices)
    votes: dict[str, Votes] = {
        kind: {
            image_id: sorted(seen.masks) if kind == "noun" else _value(seen.factors, kind)
            for image_id, seen in zip(pictures.image_ids, pictures.seen, strict=True)
        }
    }
    found = latent_results(
        latent_table(statistics.table(), votes=votes, judging=settings),
        votes=votes,
        judging=settings,
        shuffled_position_share=[0.0] * subject.d_sae,
        random_stability=None,
        cell=bench.cell,
        **bench.resampling,
    )
    wanted = {f"{kind}_entropy"} | ({"context_free_fraction"} if kind == "noun" else set())
    return [row for row in found if row.metric in wanted]


def _value(factors: Mapping[str, str], name: str) -> list[str]:
    return [factors[name]] if name in factors else []


def purity_of(factor: str, bench: Bench, subject: Subject) -> list[Result]:
    """Entropy and sigma of a whole factor over a latent's top pictures."""
    settings = bench.settings_of("purity")
    values = list(subject.names.factors[factor])
    labels = {factor: ClassLabels(_classes(subject, "test", factor), values)}
    strengths = subject.of_pictures["test"].toarray()
    return purity_rows(strengths, labels, judging=settings, cell=bench.cell, **bench.resampling)


def knowledge_rows(factor: str, bench: Bench, subject: Subject) -> list[Result]:
    """How well a linear probe reads a whole factor from the pictures' mean codes."""
    settings = bench.settings_of("knowledge")
    examples, n_classes = [], len(subject.names.factors[factor])
    for split in SPLITS:
        classes = _classes(subject, split, factor)
        known = np.flatnonzero(classes >= 0)
        examples.append(Examples(subject.of_pictures[split].toarray()[known], classes[known]))
    reading = None
    if all(len(one.classes) for one in examples):
        reading = linear_probe(*examples, n_classes=n_classes, ridges=settings.ridges)
    return [knowledge_row(factor, "codes", reading, baselines={}, cell=bench.cell, details={})]


def _classes(subject: Subject, split: str, factor: str) -> np.ndarray:
    values = {name: number for number, name in enumerate(subject.names.factors[factor])}
    seen = subject.pictures[split].seen
    return np.array([values.get(one.factors.get(factor, ""), -1) for one in seen], dtype=int)


def reconstruction_rows(bench: Bench, subject: Subject) -> list[Result]:
    """Explained variance of the test updates; nothing where they are not stored."""
    if subject.rebuilt is None:
        return []
    sums = PictureSums()
    updates, rebuilt = subject.rebuilt
    for one, again in zip(updates, rebuilt, strict=True):
        sums.add(one, {"own": again})
    own = sums.estimates("own", **bench.resampling)["explained_variance"]
    return [Result("explained_variance", own, True, "ratio", dict(bench.cell))]


def audits(names: Names) -> list[Audit]:
    """The audits. A metric that asks for nouns and for styles has one for each, since its oracle
    has latents for what it asks alone.
    """
    objects = ("noun", "stuff")
    found = [
        Audit("composition", objects, composition_rows),
        Audit("cohesion", objects, cohesion_rows),
        Audit("latents", objects, partial(latent_rows, "noun")),
        Audit("reconstruction", objects, reconstruction_rows),
    ]
    if "style" in names.factors:
        found.append(Audit("latents", ("style",), partial(latent_rows, "style")))
    for factor in names.factors:
        found.append(Audit("purity", (factor,), partial(purity_of, factor)))
        found.append(Audit("knowledge", (factor,), partial(knowledge_rows, factor)))
    return found
