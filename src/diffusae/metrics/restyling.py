"""The cases of global interventions, and the pictures that every method makes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from diffusae.evaluation.intervention_success import FeatureDistance, Restyled, restyled
from diffusae.evaluation.perceptual_distance import Net, PerceptualDistance
from diffusae.evaluation.structural_similarity import structural_similarity
from diffusae.interventions.edits import Change
from diffusae.metrics.directed import UNEDITED, DirectedSettings, Outcome, first_draws
from diffusae.prompts.prompt_set import Prompt
from diffusae.report.before_after import Kept
from diffusae.steering.edited import EditedPictures, Trial
from diffusae.steering.global_directions import BlockDirections, Factors
from diffusae.steering.methods import GlobalForm
from diffusae.steering.protocol import Split, Strengths, Tested
from diffusae.study.study import Study

FEATURE_DISTANCE, LPIPS = "feature_distance", "lpips"

Distance = Callable[[np.ndarray, np.ndarray], Sequence[float]]
"""How far apart pictures are, pair by pair."""


@dataclass(frozen=True, kw_only=True)
class GlobalSettings(DirectedSettings):
    """`conf/evaluation/global.yaml`."""

    forms: dict[str, GlobalForm]
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


StyleOutcome = Outcome[StyleCase, Restyled]
StyleTest = Tested[tuple[str, str], StyleOutcome]
"""By method and factor."""


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


@dataclass
class Restyler:
    """Makes the pictures of cases, and judges them against the unedited ones: `before`, the
    pictures and their annotations by image id.
    """

    settings: GlobalSettings
    pictures: EditedPictures
    edited: Sequence[BlockDirections]
    names: Factors
    before: Mapping[str, tuple[np.ndarray, Any]]

    def outcomes(
        self, split: Split, prompts: Sequence[Prompt], strengths: Strengths[tuple[str, str]]
    ) -> list[StyleOutcome]:
        """The edited pictures of these prompts, caption by caption; cases without a direction in
        every block have none.
        """
        cases = cases_of(prompts, self.before, self.names)
        order = {prompt.image_id: place for place, prompt in enumerate(prompts)}
        jobs = [
            (case, method, draw, strength)
            for case in sorted(cases, key=lambda case: order[case.prompt.image_id])
            for (method, factor), tried in strengths.items()
            if factor == case.factor and self._has_direction(method, case)
            for draw in self.settings.draws_met(method, split, caption=order[case.prompt.image_id])
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
            StyleOutcome(
                method, draw, strength, case, self._judged(case, annotation, similar), image
            )
            for (case, method, draw, strength), (image, annotation), similar in zip(
                jobs, made, alike, strict=True
            )
        ]

    def _has_direction(self, method: str, case: StyleCase) -> bool:
        return all((method, case.factor, case.target) in b.directions for b in self.edited)

    def _changes(
        self, case: StyleCase, method: str, draw: int, strength: float
    ) -> tuple[Change, ...]:
        form: GlobalForm = self.settings.form(method)
        return tuple(
            form.change(
                block.sae, block.directions[method, case.factor, case.target][draw], strength
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
        self,
        study: Study,
        split: str,
        outcomes: Sequence[StyleOutcome],
        measures: Mapping[str, Distance],
    ) -> pd.DataFrame:
        """One row for each edited picture."""
        images = [outcome.picture for outcome in outcomes]
        old_images = [self.before[outcome.case.prompt.image_id][0] for outcome in outcomes]
        table = pd.DataFrame([self._row(study, split, outcome) for outcome in outcomes])
        for name, distance in measures.items() if images else ():
            table[name] = distance(np.stack(images), np.stack(old_images))
        return table

    def _row(self, study: Study, split: str, outcome: StyleOutcome) -> dict[str, Any]:
        factor, target = outcome.case.factor, outcome.case.target
        shared = self.settings.columns(study, outcome, split=split, edit=factor, region="whole")
        return shared | {"factor": factor, "target": target}


def examples_of(
    tested: Sequence[StyleOutcome], before: Mapping[str, tuple[np.ndarray, Any]], count: int
) -> Iterator[Kept]:
    """The first cases of each factor, to be kept: the unedited picture, then the picture of every
    method in its first draw.
    """
    by_factor: dict[str, dict[StyleCase, list[StyleOutcome]]] = {}
    for outcome in tested:
        by_factor.setdefault(outcome.case.factor, {}).setdefault(outcome.case, []).append(outcome)
    for cases in by_factor.values():
        for case, outcomes in list(cases.items())[:count]:
            unedited = before[case.prompt.image_id][0]
            yield Kept(
                case.target, case.prompt.image_id, case.prompt.text, UNEDITED, 0.0, False, unedited
            )
            for outcome in first_draws(outcomes):
                yield outcome.kept(case.target)
