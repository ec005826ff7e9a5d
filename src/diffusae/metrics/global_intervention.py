"""Global intervention at one cell: styles added everywhere by their concepts, beside the
controls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from diffusae.errors import UserError
from diffusae.evaluation.intervention_success import FeatureDistance, Restyled, restyled
from diffusae.evaluation.perceptual_distance import Net, PerceptualDistance
from diffusae.evaluation.result import Estimate, Result
from diffusae.evaluation.structural_similarity import structural_similarity
from diffusae.interventions.edits import Change, GlobalPush
from diffusae.metrics.directed import DirectedSettings, mean_over
from diffusae.metrics.metric import Beside, Embedding, Metric, unguided
from diffusae.prompts.prompt_set import Prompt
from diffusae.report.before_after import Kept, save_examples
from diffusae.report.tables import capital, plain
from diffusae.steering.edited import EditedPictures, Trial
from diffusae.steering.global_directions import (
    BlockDirections,
    Factors,
    block_directions,
    edited_studies,
    factors_of,
    factors_shown,
)
from diffusae.steering.protocol import Split, Strengths, Tested, tune_choose_test
from diffusae.study.study import Study
from diffusae.table_files import write_table

METHODS = ("concepts", "difference_of_means", "random_latent", "neuron")
UNEDITED = "no_edit"
FEATURE_DISTANCE, LPIPS = "feature_distance", "lpips"
ENDING = "_together"
"""What the names of rows end in where several blocks are edited."""
SPLITS: tuple[Split, ...] = ("tune", "test")

Distance = Callable[[np.ndarray, np.ndarray], Sequence[float]]
"""How far apart pictures are, pair by pair."""


@dataclass(frozen=True, kw_only=True)
class GlobalSettings(DirectedSettings):
    """`conf/evaluation/global.yaml`."""

    factors: tuple[str, ...]
    """Of the annotator, such as style."""
    blocks: tuple[str, ...] | None
    """Edited together, each with its autoencoder of the cell's t and branch; None: the cell's
    own.
    """
    under_objects: tuple[str, ...]
    """Factors that show in objects: updates are compared under objects alone."""
    lpips: Net | None
    """Its network; None: no LPIPS."""

    def faults(self) -> Iterator[str]:
        yield from super().faults()
        if not self.factors:
            yield "evaluation.factors is empty; name a factor, such as style"


@dataclass(frozen=True)
class StyleCase:
    """One picture that is to take on one value of a factor."""

    prompt: Prompt
    factor: str
    target: str


@dataclass(frozen=True, eq=False)
class StyleOutcome:
    """What one method made of one case at one strength."""

    method: str
    strength: float
    case: StyleCase
    restyled: Restyled
    picture: np.ndarray


StyleTest = Tested[tuple[str, str], StyleOutcome]
"""By method and factor."""


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
            one, shown, names, n_latents=settings.n_latents, under_objects=settings.under_objects
        )
        for one in edited
    ]
    prompts = {split: _prompts(study, split, settings) for split in SPLITS}
    # Both splits in one go, so that batches are full. Of the test pictures, nothing is looked at
    # before the strengths are chosen.
    both = [prompt for of_split in prompts.values() for prompt in of_split]
    plain = pictures.make([Trial(prompt) for prompt in both], what="unedited pictures")
    before = {prompt.image_id: made for prompt, made in zip(both, plain, strict=True)}
    restyler = _Restyler(pictures, directions, names, before)
    test = tune_choose_test(
        lambda split, strengths: restyler.outcomes(prompts[split], strengths),
        {(method, factor): settings.strengths for factor in names for method in METHODS},
        method=lambda outcome: (outcome.method, outcome.case.factor),
        score=_rise,
    )
    measures = restyler.distances(perceptual)
    tables = {split: restyler.table(made, measures) for split, made in test.splits().items()}
    directory = study.evaluation(study.cfg.evaluation.name)
    both_tables = pd.concat([table.assign(split=split) for split, table in tables.items()])
    write_table(directory / "pictures.parquet", both_tables)
    save_examples(directory, list(_examples(test.tested, before, settings.examples)))
    return [
        row
        for factor in names
        for row in _results(study, factor, tables["test"], test, settings, blocks)
    ]


def cases_of(
    prompts: Sequence[Prompt], before: Mapping[str, tuple[np.ndarray, Any]], names: Factors
) -> list[StyleCase]:
    """One target for every prompt and factor: a value that the unedited picture does not show. All
    such values are used equally often.
    """
    cases = []
    for factor, values in names.items():
        for number, prompt in enumerate(prompts):
            scores = before[prompt.image_id][1].scores[factor]
            others = [value for n, value in enumerate(values) if n != int(np.argmax(scores))]
            cases.append(StyleCase(prompt, factor, others[number % len(others)]))
    return cases


def _prompts(study: Study, split: Split, settings: GlobalSettings) -> list[Prompt]:
    of_split = [prompt for prompt in study.prompts if prompt.split == split]
    if not of_split:
        raise UserError(f"split {split!r} has no prompts; raise prompts.counts.{split}")
    return of_split[: settings.prompts(split)]


@dataclass
class _Restyler:
    """Makes the pictures of cases, and judges them against the unedited ones: `before`, the
    pictures and their annotations by image id.
    """

    pictures: EditedPictures
    edited: Sequence[BlockDirections]
    names: Factors
    before: Mapping[str, tuple[np.ndarray, Any]]

    def outcomes(
        self, prompts: Sequence[Prompt], strengths: Strengths[tuple[str, str]]
    ) -> list[StyleOutcome]:
        """The edited pictures of these prompts; cases without a direction in every block have
        none.
        """
        jobs = [
            (case, method, strength)
            for case in cases_of(prompts, self.before, self.names)
            for (method, factor), tried in strengths.items()
            if factor == case.factor and self._has_direction(method, case)
            for strength in tried
        ]
        for block in self.edited:
            block.sae.to(self.pictures.device)
        made = self.pictures.make(
            [Trial(job[0].prompt, self._changes(*job)) for job in jobs], what="edited pictures"
        )
        images = [image for image, _ in made]
        old = [self.before[case.prompt.image_id][0] for case, *_ in jobs]
        alike = structural_similarity(np.stack(images), np.stack(old)).tolist() if made else []
        return [
            StyleOutcome(method, strength, case, self._judged(case, annotation, similar), image)
            for (case, method, strength), (image, annotation), similar in zip(
                jobs, made, alike, strict=True
            )
        ]

    def _has_direction(self, method: str, case: StyleCase) -> bool:
        return all((method, case.factor, case.target) in b.directions for b in self.edited)

    def _changes(self, case: StyleCase, method: str, strength: float) -> tuple[Change, ...]:
        return tuple(
            GlobalPush(
                block.sae, block.directions[method, case.factor, case.target], strength=strength
            )
            for block in self.edited
        )

    def _judged(self, case: StyleCase, new: Any, similarity: float) -> Restyled:
        _, old = self.before[case.prompt.image_id]
        before, after = ((one.scores[case.factor], list(one.masks)) for one in (old, new))
        target = list(self.names[case.factor]).index(case.target)
        return restyled(target, before=before, after=after, similarity=similarity)

    def distances(self, perceptual: PerceptualDistance | None) -> dict[str, Distance]:
        """The distances that there are, scaled by the unedited pictures of both splits."""
        measures: dict[str, Distance] = {}
        if (features := getattr(self.pictures.annotator, "features", None)) is not None:
            unedited = [image for image, _ in self.before.values()]
            measures[FEATURE_DISTANCE] = FeatureDistance(features, unedited)
        return measures if perceptual is None else measures | {LPIPS: perceptual}

    def table(
        self, outcomes: Sequence[StyleOutcome], measures: Mapping[str, Distance]
    ) -> pd.DataFrame:
        """One row for each edited picture."""
        images = [outcome.picture for outcome in outcomes]
        old_images = [self.before[outcome.case.prompt.image_id][0] for outcome in outcomes]
        table = pd.DataFrame(
            [
                {
                    "method": outcome.method,
                    "factor": outcome.case.factor,
                    "target": outcome.case.target,
                    "strength": outcome.strength,
                    "image_id": outcome.case.prompt.image_id,
                    "prompt": outcome.case.prompt.text,
                    **vars(outcome.restyled),
                }
                for outcome in outcomes
            ]
        )
        for name, distance in measures.items() if images else ():
            table[name] = distance(np.stack(images), np.stack(old_images))
        return table


def _examples(
    tested: Sequence[StyleOutcome], before: Mapping[str, tuple[np.ndarray, Any]], count: int
) -> Iterator[Kept]:
    """The first cases of each factor: the unedited picture, then the picture of every method."""
    by_factor: dict[str, dict[StyleCase, list[StyleOutcome]]] = {}
    for outcome in tested:
        by_factor.setdefault(outcome.case.factor, {}).setdefault(outcome.case, []).append(outcome)
    for cases in by_factor.values():
        for case, outcomes in list(cases.items())[:count]:
            whose = case.target, case.prompt.image_id, case.prompt.text
            yield Kept(*whose, UNEDITED, 0.0, False, before[case.prompt.image_id][0])
            for one in outcomes:
                yield Kept(*whose, one.method, one.strength, one.restyled.rose, one.picture)


def _rise(outcomes: Sequence[StyleOutcome]) -> float:
    """Scores that rose and targets that were reached, both alike."""
    rose, reached = (
        float(np.mean([getattr(o.restyled, field) for o in outcomes] or [0.0]))
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
    blocks: Sequence[str],
) -> list[Result]:
    def rows_of(method: str) -> Any:
        return tested[(tested["method"] == method) & (tested["factor"] == factor)]

    def estimate(method: str, column: str) -> Estimate:
        rows = rows_of(method)
        return mean_over(study, settings, rows[column], rows["image_id"])

    def without_edit(column: str) -> Estimate:
        value = _WITHOUT_EDIT[column]
        if value is None:
            return estimate("concepts", "score_before")
        return Estimate.known(value, n=len(rows_of("random_latent")))

    best = {method: test.best[method, factor] for method in METHODS}
    scores = {method: test.scores[method, factor] for method in METHODS}
    explained = settings.explained(study, best, scores)
    details = {"factor": factor, "blocks": list(blocks), **explained}
    return [
        Result(
            metric=f"{factor}_{column}{ENDING if len(blocks) > 1 else ''}",
            estimate=estimate("concepts", column),
            higher_is_better=column not in (FEATURE_DISTANCE, LPIPS),
            unit=_UNITS.get(column, "share"),
            cell=study.cell.coordinates(),
            baselines={
                UNEDITED: without_edit(column),
                **{method: estimate(method, column) for method in METHODS[1:]},
            },
            details=details,
        )
        for column in _WITHOUT_EDIT
        if column in tested
    ]


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
    faults=unguided,
    beside=_other_cells,
)
TOGETHER = replace(
    METRIC,
    name="global_together",
    title="Can a style be added by its concepts in all blocks together?",
)
