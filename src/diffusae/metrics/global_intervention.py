"""Global intervention at one cell: styles added everywhere by their concepts, beside the
controls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from diffusae.errors import UserError
from diffusae.evaluation.perceptual_distance import PerceptualDistance
from diffusae.evaluation.result import NO_DATA, Estimate, Result
from diffusae.metrics.directed import SPLITS, UNEDITED, VERSION, mean_over, spread
from diffusae.metrics.metric import Beside, Embedding, Metric, unguided
from diffusae.metrics.restyling import (
    FEATURE_DISTANCE,
    LPIPS,
    GlobalSettings,
    Restyler,
    StyleOutcome,
    StyleTest,
    examples_of,
)
from diffusae.prompts.prompt_set import Prompt
from diffusae.report.before_after import save_examples
from diffusae.report.tables import capital, plain
from diffusae.steering.edited import Trial
from diffusae.steering.global_directions import (
    block_directions,
    edited_studies,
    factors_of,
    factors_shown,
)
from diffusae.steering.methods import OWN
from diffusae.steering.protocol import Split, tune_choose_test
from diffusae.study.study import Study
from diffusae.table_files import write_table

ENDING = "_together"
"""What the names of rows end in where several blocks are edited."""


def global_rows(study: Study, settings: GlobalSettings, _embedding: Embedding) -> list[Result]:
    """For every factor: does its score rise, is the target reached, how much of the picture is
    kept.
    """
    perceptual = None if settings.lpips is None else PerceptualDistance(settings.lpips).load()
    edited = edited_studies(study, settings.blocks)
    blocks = [one.cell.block for one in edited]
    pictures = settings.pictures(study, blocks)
    factors_of(pictures.annotator, settings.under_objects)  # refuses unknown ones
    names = factors_of(pictures.annotator, settings.factors)
    shown = factors_shown(study, pictures.annotator)
    directions = [
        block_directions(
            one,
            shown,
            names,
            n_latents=settings.n_latents,
            under_objects=settings.under_objects,
            draws=settings.random_draws,
        )
        for one in edited
    ]
    prompts = {split: _prompts(study, split, settings) for split in SPLITS}
    # Both splits in one go, so that batches are full. Of the test pictures, nothing is looked at
    # before the strengths are chosen.
    both = [prompt for of_split in prompts.values() for prompt in of_split]
    plain = pictures.make([Trial(prompt) for prompt in both], what="unedited pictures")
    before = {prompt.image_id: made for prompt, made in zip(both, plain, strict=True)}
    restyler = Restyler(settings, pictures, directions, names, before)
    test = tune_choose_test(
        lambda split, strengths: restyler.outcomes(split, prompts[split], strengths),
        {
            (method, factor): settings.strengths_of(method)
            for factor in names
            for method in settings.tried
        },
        method=lambda outcome: (outcome.method, outcome.case.factor),
        score=_rise,
    )
    measures = restyler.distances(perceptual)
    tables = {
        split: restyler.table(study, split, made, measures) for split, made in test.splits().items()
    }
    directory = study.evaluation(study.cfg.evaluation.name)
    write_table(directory / "pictures.parquet", pd.concat(tables.values()))
    save_examples(directory, list(examples_of(test.tested, before, settings.examples)))
    concepts = {block: one.concepts for block, one in zip(blocks, directions, strict=True)}
    return [
        row
        for factor in names
        for row in _results(study, factor, tables["test"], test, settings, concepts)
    ]


def _prompts(study: Study, split: Split, settings: GlobalSettings) -> list[Prompt]:
    of_split = [prompt for prompt in study.prompts if prompt.split == split]
    if not of_split:
        raise UserError(f"split {split!r} has no prompts; raise prompts.counts.{split}")
    return of_split[: settings.prompts(split)]


def _rise(outcomes: Sequence[StyleOutcome]) -> float:
    """Scores that rose and targets that were reached, both alike."""
    rose, reached = (
        float(np.mean([getattr(o.judged, field) for o in outcomes] or [0.0]))
        for field in ("rose", "reached")
    )
    return (rose + reached) / 2


_WITHOUT_EDIT = {
    "rose": 0.0,
    "reached": 0.0,
    "score_before": None,
    "score_after": None,
    "gain": 0.0,
    "similarity": 1.0,
    FEATURE_DISTANCE: 0.0,
    LPIPS: 0.0,
    "kept": 1.0,
}
"""Every measure, and its value without an edit, which the choice of the targets decides: no picture
shows its target before. None: the mean score before the edit.
"""
_SCORE = "the annotator's score"
_UNITS = {
    "score_before": _SCORE,
    "score_after": _SCORE,
    "gain": _SCORE,
    "similarity": "SSIM",
    FEATURE_DISTANCE: "mean distance of two pictures",
    LPIPS: "LPIPS",
}


def _results(
    study: Study,
    factor: str,
    tested: pd.DataFrame,
    test: StyleTest,
    settings: GlobalSettings,
    concepts: Mapping[str, Mapping[tuple[str, str], int]],
) -> list[Result]:
    """The rows of a factor; `concepts`: of every edited block, see `BlockDirections`."""

    def rows_of(method: str) -> Any:
        if tested.empty:
            return tested
        return tested[(tested["method"] == method) & (tested["factor"] == factor)]

    def estimate(method: str, column: str) -> Estimate:
        rows = rows_of(method)
        return NO_DATA if rows.empty else mean_over(study, settings, rows[column], rows["image_id"])

    def without_edit(column: str) -> Estimate:
        value = _WITHOUT_EDIT[column]
        if value is None:
            return estimate(methods[-1], "score_before")
        cases = rows_of(methods[-1])
        return Estimate.known(value, n=0 if cases.empty else cases["image_id"].nunique())

    methods, drawn = settings.tried, rows_of("random_latent")
    draws = [] if drawn.empty else drawn["draw"].tolist()
    best = {method: test.best[method, factor] for method in methods}
    scores = {method: test.scores[method, factor] for method in methods}
    explained = settings.explained(study, best, scores)
    counts = {
        block: {value: n for (of, value), n in of_block.items() if of == factor}
        for block, of_block in concepts.items()
    }
    details = {"factor": factor, "blocks": list(counts), "concepts": counts, **explained}
    return [
        Result(
            metric=f"{factor}_{column}{ENDING if len(concepts) > 1 else ''}",
            estimate=estimate(OWN, column),
            higher_is_better=column not in (FEATURE_DISTANCE, LPIPS),
            unit=_UNITS.get(column, "share"),
            cell=study.cell.coordinates(),
            baselines={
                UNEDITED: without_edit(column),
                **{method: estimate(method, column) for method in methods[1:]},
            },
            details={**details, "draws": spread(drawn[column].tolist(), draws)},
            version=VERSION,
        )
        for column in _WITHOUT_EDIT
        if column in tested
    ]


def pictures_made(settings: GlobalSettings) -> int:
    """How many pictures one cell takes at most: as many as if every value had every direction."""
    tune, test = settings.tune_prompts, settings.test_prompts
    edited = sum(
        tune * len(settings.strengths_of(method)) + test * settings.draws(method)
        for method in settings.tried
    )
    return tune + test + len(settings.factors) * edited


def _other_cells(study: Study, settings: GlobalSettings) -> list[Beside]:
    """The autoencoders of all edited blocks."""
    return [
        Beside(f"train {one.cell_name}", one.sae, "train", one)
        for one in edited_studies(study, settings.blocks)
    ]


def _chart(row: str) -> str | None:
    """Such as "Style, blocks together: score rose" of `style_rose_together`."""
    one = row.removesuffix(ENDING)
    factor, _, ending = one.rpartition("_")
    if ending not in _CHARTS:
        return None
    together = ", blocks together" if one != row else ""
    return f"{capital(plain(factor))}{together}: {_CHARTS[ending]}"


_CHARTS = {"rose": "score rose", "reached": "target reached"}
METRIC = Metric(
    name="global",
    title="Can a style be added by its concepts?",
    section="interventions",
    chart=_chart,
    settings=GlobalSettings,
    rows=global_rows,
    made_from=("train", "annotate"),
    needs="captions",
    judges=True,
    made=pictures_made,
    parts=lambda _: ("dictionary",),
    faults=unguided,
    beside=_other_cells,
)
TOGETHER = replace(
    METRIC,
    name="global_together",
    title="Can a style be added by its concepts in all blocks together?",
)
