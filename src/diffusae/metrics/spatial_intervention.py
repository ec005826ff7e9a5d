"""Spatial intervention at one cell: objects moved to each region by their concepts, beside the
controls.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from diffusae.errors import UserError
from diffusae.evaluation.intervention_success import Moved, moved
from diffusae.evaluation.result import NO_DATA, Estimate, Result
from diffusae.interventions.edits import SpatialMove
from diffusae.interventions.regions import Region
from diffusae.metrics.composition import nouns_in
from diffusae.metrics.directed import DirectedSettings, mean_over
from diffusae.metrics.metric import Embedding, Metric, unguided
from diffusae.prompts.prompt_set import Prompt
from diffusae.report.before_after import Kept, save_examples
from diffusae.report.study import TARGET_REGION
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.storage import load_sae
from diffusae.steering.edited import EditedPictures, Trial
from diffusae.steering.protocol import Split, Strengths, Tested, tune_choose_test
from diffusae.steering.spatial_directions import METHODS, Directions, directions_of
from diffusae.study.study import Study, build
from diffusae.table_files import write_table

UNEDITED = "no_edit"
SPLITS: tuple[Split, ...] = ("tune", "test")


@dataclass(frozen=True, kw_only=True)
class SpatialSettings(DirectedSettings):
    """`conf/evaluation/spatial.yaml`."""

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


@dataclass(frozen=True, eq=False)
class SpatialOutcome:
    """What one method made of one case at one strength."""

    method: str
    strength: float
    case: SpatialCase
    moved: Moved
    picture: np.ndarray


SpatialTest = Tested[str, SpatialOutcome]


def spatial_rows(study: Study, settings: SpatialSettings, _embedding: Embedding) -> list[Result]:
    """Success, recognisability, change of the rest and the strength that suffices, of the concepts
    and every control.
    """
    vocabulary = build(study.cfg.annotator, "annotator").labels
    cases = {split: cases_of(study.prompts, split, vocabulary, settings) for split in SPLITS}
    nouns = sorted({case.noun for of_split in cases.values() for case in of_split})
    sae, _ = load_sae(study.sae)
    directions = directions_of(study, sae, nouns, n_latents=settings.n_latents)
    regions = {name: Region(name) for name in settings.regions}
    mover = _Mover(settings.pictures(study, [study.cell.block]), sae, directions, regions)
    test = tune_choose_test(
        lambda split, strengths: mover.outcomes(cases[split], strengths),
        dict.fromkeys(METHODS, settings.strengths),
        method=lambda outcome: outcome.method,
        score=_rate,
    )
    directory = study.evaluation(METRIC.name)
    _save_table(directory, test)
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
    named = [
        (prompt, nouns_in(prompt.text, vocabulary)) for prompt in prompts if prompt.split == split
    ]
    single = [(prompt, nouns[0]) for prompt, nouns in named if len(nouns) == 1][
        : settings.prompts(split)
    ]
    if not single:
        raise UserError(
            f"no prompt of split {split!r} names exactly one object that the annotator knows; give"
            " some"
        )
    return [
        SpatialCase(prompt, noun, region) for prompt, noun in single for region in settings.regions
    ]


@dataclass
class _Mover:
    """Makes the pictures of cases, and judges them."""

    pictures: EditedPictures
    sae: SparseAutoencoder
    directions: Directions
    regions: Mapping[str, Region]

    def outcomes(
        self, cases: Sequence[SpatialCase], strengths: Strengths[str]
    ) -> list[SpatialOutcome]:
        """No edit (strength 0) first, then every method at its strengths; cases without a direction
        are left out.
        """
        jobs = [
            (method, strength, case, self.directions[method][case.noun])
            for method, tried in strengths.items()
            for strength in tried
            for case in cases
            if case.noun in self.directions[method]
        ]
        unedited = {case.prompt.image_id: Trial(case.prompt) for case in cases}
        self.sae.to(self.pictures.device)
        trials = [
            Trial(
                case.prompt,
                (SpatialMove(self.sae, direction, self.regions[case.region], strength=strength),),
            )
            for _, strength, case, direction in jobs
        ]
        made = self.pictures.make([*unedited.values(), *trials], what="edited pictures")
        before = {
            image_id: (image, annotation.masks)
            for image_id, (image, annotation) in zip(unedited, made, strict=False)
        }
        size = next(iter(before.values()))[0].shape[:2]
        masks = {name: region.mask(size).numpy() for name, region in self.regions.items()}

        def judged(
            method: str, strength: float, case: SpatialCase, after: tuple[np.ndarray, Any]
        ) -> SpatialOutcome:
            outcome = moved(
                case.noun, masks[case.region], before=before[case.prompt.image_id], after=after
            )
            return SpatialOutcome(method, strength, case, outcome, after[0])

        return [
            *(judged(UNEDITED, 0.0, case, before[case.prompt.image_id]) for case in cases),
            *(
                judged(method, strength, case, (image, annotation.masks))
                for (method, strength, case, _), (image, annotation) in zip(
                    jobs, made[len(unedited) :], strict=True
                )
            ),
        ]


def _of(outcomes: Iterable[SpatialOutcome], method: str) -> list[SpatialOutcome]:
    return [outcome for outcome in outcomes if outcome.method == method]


def _rate(outcomes: Sequence[SpatialOutcome]) -> float:
    """The share of successes; an object that is lost is no success."""
    return float(np.mean([o.moved.success for o in outcomes])) if outcomes else 0.0


def _sufficient(outcomes: Iterable[SpatialOutcome]) -> dict[SpatialCase, float | None]:
    """The weakest strength tried with which each case succeeded; None: with none."""
    weakest: dict[SpatialCase, float | None] = {}
    for outcome in sorted(outcomes, key=lambda outcome: outcome.strength):
        if weakest.setdefault(outcome.case, None) is None and outcome.moved.success:
            weakest[outcome.case] = outcome.strength
    return weakest


def _save_table(directory: Path, test: SpatialTest) -> None:
    rows = [
        {
            "split": split,
            "method": outcome.method,
            "strength": outcome.strength,
            "prompt": outcome.case.prompt.text,
            "noun": outcome.case.noun,
            "image_id": outcome.case.prompt.image_id,
            "region": outcome.case.region,
            **vars(outcome.moved),
        }
        for split, outcomes in test.splits().items()
        for outcome in outcomes
    ]
    write_table(directory / "objects.parquet", pd.DataFrame(rows))


def _examples(
    tested: Sequence[SpatialOutcome], regions: Mapping[str, Region], count: int
) -> Iterator[Kept]:
    """The first cases of different prompts, each prompt with the next region: the region on the
    unedited picture, then the picture of every method that has a direction.
    """
    of_prompt: dict[str, list[SpatialCase]] = defaultdict(list)
    for outcome in _of(tested, UNEDITED):
        of_prompt[outcome.case.prompt.image_id].append(outcome.case)
    chosen = [cases[n % len(cases)] for n, cases in enumerate(list(of_prompt.values())[:count])]
    for case in chosen:
        whose = f"{case.noun} to {case.region}", case.prompt.image_id, case.prompt.text
        for one in (o for o in tested if o.case == case):
            if one.method == UNEDITED:
                lit = regions[case.region].lit(one.picture)
                yield Kept(*whose, TARGET_REGION, 0.0, False, lit)
            yield Kept(*whose, one.method, one.strength, one.moved.success, one.picture)


_FIGURES = (
    ("success", "spatial_success", True, "share"),
    ("found", "spatial_recognised", True, "share"),
    ("rest", "spatial_rest_changed", False, "RMS of full scale"),
)
"""Field of `Moved`, the row's metric, whether higher is better, its unit."""


def _results(study: Study, test: SpatialTest, settings: SpatialSettings) -> list[Result]:
    def mean(values: Iterable[Any], cases: Iterable[SpatialCase]) -> Estimate:
        return mean_over(study, settings, values, (case.prompt.image_id for case in cases))

    def estimate(method: str, field: str) -> Estimate:
        outcomes = _of(test.tested, method)
        return mean([getattr(o.moved, field) for o in outcomes], [o.case for o in outcomes])

    def nouns(method: str) -> set[str]:
        return {outcome.case.noun for outcome in _of(test.tested, method)}

    sufficient = {method: _sufficient(_of(test.tuned, method)) for method in METHODS}

    def weakest(method: str) -> Estimate:
        enough = {case: s for case, s in sufficient[method].items() if s is not None}
        return mean(enough.values(), enough) if enough else NO_DATA

    details = {
        **settings.explained(study, test.best, test.scores),
        "without_concept": sorted(nouns(UNEDITED) - nouns("concepts")),
        "without_dictionary_concept": sorted(nouns(UNEDITED) - nouns("dictionary_concepts")),
    }
    cell = study.cell.coordinates()
    rows = [
        Result(
            metric=metric,
            estimate=estimate("concepts", field),
            higher_is_better=higher,
            unit=unit,
            cell=cell,
            baselines={name: estimate(name, field) for name in (UNEDITED, *METHODS[1:])},
            details=details,
        )
        for field, metric, higher, unit in _FIGURES
    ]
    never = {
        method: sum(strength is None for strength in cases.values())
        for method, cases in sufficient.items()
    }
    return [
        *rows,
        Result(
            metric="spatial_sufficient_strength",
            estimate=weakest("concepts"),
            higher_is_better=False,
            unit="lengths of a position's code",
            cell=cell,
            baselines={name: weakest(name) for name in METHODS[1:]},
            details={**details, "cases_that_no_strength_moved": never},
        ),
    ]


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
    faults=unguided,
)
