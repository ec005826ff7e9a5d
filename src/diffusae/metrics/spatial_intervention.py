"""Spatial intervention at one cell: objects moved to each region by their concepts, beside the
controls.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from diffusae.concepts.words import Vocabulary
from diffusae.errors import UserError
from diffusae.evaluation.intervention_success import Moved, moved
from diffusae.evaluation.result import NO_DATA, Estimate, Result
from diffusae.interventions.edits import Change
from diffusae.interventions.regions import Region
from diffusae.metrics.directed import (
    SPLITS,
    UNEDITED,
    VERSION,
    DirectedSettings,
    Outcome,
    first_draws,
    mean_over,
    spread,
)
from diffusae.metrics.metric import Embedding, Metric, unguided
from diffusae.prompts.prompt_set import Prompt
from diffusae.report.before_after import Kept, save_examples
from diffusae.report.study import TARGET_REGION
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.storage import load_sae
from diffusae.steering.edited import EditedPictures, Trial
from diffusae.steering.methods import OWN, SpatialForm
from diffusae.steering.protocol import Split, Strengths, Tested, tune_choose_test
from diffusae.steering.spatial_directions import Directions, directions_of
from diffusae.study.study import Study, build
from diffusae.table_files import write_table

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SpatialSettings(DirectedSettings):
    """`conf/evaluation/spatial.yaml`."""

    forms: dict[str, SpatialForm]
    regions: tuple[str, ...]
    """Names of quadrants, or paths of painted masks."""

    def faults(self) -> Iterator[str]:
        yield from super().faults()
        if not self.regions:
            yield "evaluation.regions is empty; name a region, such as top_left"


@dataclass(frozen=True)
class SpatialCase:
    """One object in one picture that is to go to one region."""

    prompt: Prompt
    noun: str
    region: str


SpatialOutcome = Outcome[SpatialCase, Moved]
SpatialTest = Tested[str, SpatialOutcome]


def spatial_rows(study: Study, settings: SpatialSettings, _embedding: Embedding) -> list[Result]:
    """Success, recognisability, change of the rest and the strength that suffices, of the paper's
    concepts beside every other method.
    """
    vocabulary = build(study.cfg.annotator, "annotator").labels
    cases = {split: cases_of(study.prompts, split, vocabulary, settings) for split in SPLITS}
    nouns = sorted({case.noun for of_split in cases.values() for case in of_split})
    sae, _ = load_sae(study.sae)
    directions = directions_of(
        study, sae, nouns, n_latents=settings.n_latents, draws=settings.random_draws
    )
    regions = {name: Region(name) for name in settings.regions}
    mover = _Mover(settings, settings.pictures(study, [study.cell.block]), sae, directions, regions)
    test = tune_choose_test(
        lambda split, strengths: mover.outcomes(split, cases[split], strengths),
        {method: settings.strengths_of(method) for method in settings.tried},
        method=lambda outcome: outcome.method,
        score=_rate,
    )
    directory = study.evaluation(METRIC.name)
    _save_table(study, settings, directory, test)
    save_examples(directory, list(_examples(test.tested, regions, settings.examples)))
    return _results(study, test, settings)


def cases_of(
    prompts: Sequence[Prompt], split: Split, vocabulary: tuple[str, ...], settings: SpatialSettings
) -> list[SpatialCase]:
    """Every region for the first prompts of the split that name one object only, so that it is
    clear which to move.

    Raises:
        UserError: the split has no such prompt.
    """
    words = Vocabulary.of(vocabulary)
    named = [(one, words.appearances(one.text)) for one in prompts if one.split == split]
    single = [(one, nouns[0][0]) for one, nouns in named if len(nouns) == 1]
    single = single[: settings.prompts(split)]
    if not single:
        raise UserError(
            f"no prompt of split {split!r} names exactly one object that the annotator knows; give"
            " some"
        )
    if len(single) < settings.prompts(split):
        log.warning(
            "evaluation.%s_prompts=%d, but the split %s has %d captions that name one object; raise"
            " prompts.counts.%s for more",
            *(split, settings.prompts(split), split, len(single), split),
        )
    return [
        SpatialCase(prompt, noun, region) for prompt, noun in single for region in settings.regions
    ]


@dataclass
class _Mover:
    """Makes the pictures of cases, and judges them."""

    settings: SpatialSettings
    pictures: EditedPictures
    sae: SparseAutoencoder
    directions: Directions
    regions: Mapping[str, Region]

    def outcomes(
        self, split: Split, cases: Sequence[SpatialCase], strengths: Strengths[str]
    ) -> list[SpatialOutcome]:
        """No edit (strength 0) first, then caption by caption every method at its strengths; cases
        without a direction are left out.
        """
        jobs = [
            (method, draw, strength, case)
            for number, case in enumerate(cases)
            for method, tried in strengths.items()
            if case.noun in self.directions[method]
            for draw in self._draws(method, split, number)
            for strength in tried
        ]
        unedited = {case.prompt.image_id: Trial(case.prompt) for case in cases}
        self.sae.to(self.pictures.device)
        trials = [Trial(job[-1].prompt, (self._change(*job),)) for job in jobs]
        made = self.pictures.make([*unedited.values(), *trials], what="edited pictures")
        before = {
            image_id: (image, annotation.masks)
            for image_id, (image, annotation) in zip(unedited, made, strict=False)
        }
        size = next(iter(before.values()))[0].shape[:2]
        masks = {name: region.mask(size).numpy() for name, region in self.regions.items()}

        def judged(
            method: str,
            draw: int,
            strength: float,
            case: SpatialCase,
            after: tuple[np.ndarray, Any],
        ) -> SpatialOutcome:
            outcome = moved(
                case.noun, masks[case.region], before=before[case.prompt.image_id], after=after
            )
            return SpatialOutcome(method, draw, strength, case, outcome, after[0])

        return [
            *(judged(UNEDITED, 0, 0.0, case, before[case.prompt.image_id]) for case in cases),
            *(
                judged(*job, (image, annotation.masks))
                for job, (image, annotation) in zip(jobs, made[len(unedited) :], strict=True)
            ),
        ]

    def _draws(self, method: str, split: Split, number: int) -> Sequence[int]:
        """The draws of a method that meet the case of this number."""
        caption, region = divmod(number, regions := len(self.regions))
        return self.settings.draws_met(
            method, split, caption=caption, region=region, regions=regions
        )

    def _change(self, method: str, draw: int, strength: float, case: SpatialCase) -> Change:
        direction = self.directions[method][case.noun][draw]
        form: SpatialForm = self.settings.form(method)
        return form.change(self.sae, direction, self.regions[case.region], strength)


def _of(outcomes: Iterable[SpatialOutcome], method: str) -> list[SpatialOutcome]:
    return [outcome for outcome in outcomes if outcome.method == method]


def _rate(outcomes: Sequence[SpatialOutcome]) -> float:
    """The share of successes; an object that is lost is no success."""
    return float(np.mean([o.judged.success for o in outcomes])) if outcomes else 0.0


def _sufficient(outcomes: Iterable[SpatialOutcome]) -> dict[SpatialCase, float | None]:
    """The weakest strength tried with which each case succeeded; None: with none."""
    weakest: dict[SpatialCase, float | None] = {}
    for outcome in sorted(outcomes, key=lambda outcome: outcome.strength):
        if weakest.setdefault(outcome.case, None) is None and outcome.judged.success:
            weakest[outcome.case] = outcome.strength
    return weakest


def _save_table(
    study: Study, settings: SpatialSettings, directory: Path, test: SpatialTest
) -> None:
    rows = [
        settings.columns(study, outcome, split=split, edit="spatial", region=outcome.case.region)
        | {"noun": outcome.case.noun}
        for split, outcomes in test.splits().items()
        for outcome in outcomes
    ]
    write_table(directory / "objects.parquet", pd.DataFrame(rows))


def _examples(
    tested: Sequence[SpatialOutcome], regions: Mapping[str, Region], count: int
) -> Iterator[Kept]:
    """The first cases of different prompts, each prompt with the next region: the region on the
    unedited picture, then the picture of every method that has a direction, in its first draw.
    """
    of_prompt: dict[str, list[SpatialCase]] = defaultdict(list)
    for outcome in _of(tested, UNEDITED):
        of_prompt[outcome.case.prompt.image_id].append(outcome.case)
    chosen = [cases[n % len(cases)] for n, cases in enumerate(list(of_prompt.values())[:count])]
    for case in chosen:
        name = f"{case.noun} to {case.region}"
        for outcome in first_draws([one for one in tested if one.case == case]):
            if outcome.method == UNEDITED:
                lit = regions[case.region].lit(outcome.picture)
                yield replace(outcome.kept(name), method=TARGET_REGION, success=False, picture=lit)
            yield outcome.kept(name)


_FIGURES = (
    ("success", "spatial_success", True, "share"),
    ("found", "spatial_recognised", True, "share"),
    ("rest", "spatial_rest_changed", False, "RMS of full scale"),
)
"""Field of `Moved`, the row's metric, whether higher is better, its unit."""


def _results(study: Study, test: SpatialTest, settings: SpatialSettings) -> list[Result]:
    methods = settings.tried
    sufficient = {method: _sufficient(_of(test.tuned, method)) for method in methods}
    details = _details(study, test, settings)

    def mean(values: Iterable[Any], cases: Iterable[SpatialCase]) -> Estimate:
        return mean_over(study, settings, values, (case.prompt.image_id for case in cases))

    def measured(method: str, field: str) -> Estimate:
        outcomes = _of(test.tested, method)
        return mean([getattr(o.judged, field) for o in outcomes], [o.case for o in outcomes])

    def weakest(method: str) -> Estimate:
        enough = {case: s for case, s in sufficient[method].items() if s is not None}
        return mean(enough.values(), enough) if enough else NO_DATA

    def row(metric: str, of: Callable[[str], Estimate], **others: Any) -> Result:
        cell, own = study.cell.coordinates(), of(OWN)
        controls = {name: of(name) for name in others.pop("controls")}
        return Result(metric, own, cell=cell, baselines=controls, version=VERSION, **others)

    drawn = _of(test.tested, "random_latent")
    draws = [outcome.draw for outcome in drawn]
    rows = [
        row(
            metric,
            partial(measured, field=field),
            controls=(UNEDITED, *methods[1:]),
            higher_is_better=higher,
            unit=unit,
            details={**details, "draws": spread([getattr(o.judged, field) for o in drawn], draws)},
        )
        for field, metric, higher, unit in _FIGURES
    ]
    never = {
        method: sum(strength is None for strength in cases.values())
        for method, cases in sufficient.items()
    }
    enough = row(
        "spatial_sufficient_strength",
        weakest,
        controls=methods[1:],
        higher_is_better=False,
        unit="strengths of each method's form",
        details={**details, "cases_that_no_strength_moved": never},
    )
    return [*rows, enough]


def _details(study: Study, test: SpatialTest, settings: SpatialSettings) -> dict[str, Any]:
    """What was edited, and which cases have a direction."""

    def nouns(method: str) -> set[str]:
        return {outcome.case.noun for outcome in _of(test.tested, method)}

    return {
        **settings.explained(study, test.best, test.scores),
        "cases": len(_of(test.tested, UNEDITED)),
        "cases_with_a_concept": len(_of(test.tested, OWN)),
        "without_dictionary_concept": sorted(nouns(UNEDITED) - nouns(OWN)),
        "without_chosen_latents": sorted(nouns(UNEDITED) - nouns("chosen_latents")),
    }


def pictures_made(settings: SpatialSettings) -> int:
    """How many pictures one cell takes at most: as many as if every noun had every direction."""
    regions, tune, test = len(settings.regions), settings.tune_prompts, settings.test_prompts
    edited = sum(
        tune * regions * len(settings.strengths_of(method))
        + test * (regions if (draws := settings.draws(method)) == 1 else draws)
        for method in settings.tried
    )
    return tune + test + edited


METRIC = Metric(
    name="spatial",
    title="Can an object be moved by its concepts?",
    section="interventions",
    chart={"spatial_success": "Spatial interventions: success"}.get,
    settings=SpatialSettings,
    rows=spatial_rows,
    made_from=("label", "annotate"),
    needs="captions",
    judges=True,
    made=pictures_made,
    faults=unguided,
)
