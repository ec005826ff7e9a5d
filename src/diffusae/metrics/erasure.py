"""Erasure at one cell, an autoencoder of a text encoder's layer: is a concept gone, and what went
with it?
"""

from __future__ import annotations

import logging

from diffusae.benchmarks.erasure.benchmark import ErasureBenchmark
from diffusae.benchmarks.erasure.defended import DefendedPictures
from diffusae.benchmarks.erasure.settings import ErasureSettings
from diffusae.evaluation.result import Result
from diffusae.metrics.metric import Embedding, Metric
from diffusae.study.study import Study

log = logging.getLogger(__name__)


def erasure_rows(study: Study, settings: ErasureSettings, _embedding: Embedding) -> list[Result]:
    """Rows of every target. trials.parquet has a row for each picture, points.parquet one for each
    figure of the trade-off.
    """
    targets = list(settings.concept_prompts)
    pictures = DefendedPictures(study, steps=settings.steps, check=settings.check)
    pictures.require(targets)
    benchmark = ErasureBenchmark(study, settings, pictures)
    results: list[Result] = []
    for target in targets:
        results += benchmark.of(target)
        benchmark.save()  # of the targets so far
    log.info("%d pictures were generated", pictures.made)
    return results


METRIC = Metric(
    name="erasure",
    title="Is a concept gone, and what went with it?",
    section="erasure",
    settings=ErasureSettings,
    rows=erasure_rows,
    needs="text",
    judges=True,
)
