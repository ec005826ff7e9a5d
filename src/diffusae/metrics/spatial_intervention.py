"""Spatial intervention at one cell: objects moved to each region by their concepts, beside the
controls.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from diffusae.errors import UserError, together
from diffusae.evaluation.intervention_success import Moved, moved
from diffusae.evaluation.result import NO_DATA, Estimate, Result, bootstrap_mean
from diffusae.files import atomic_path
from diffusae.interventions.edits import SpatialMove
from diffusae.interventions.regions import Region
from diffusae.interventions.windows import window_at
from diffusae.metrics.composition import nouns_in
from diffusae.prompts.prompt_set import Prompt
from diffusae.report.before_after import Kept, save_examples
from diffusae.report.study import TARGET_REGION
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.storage import load_sae
from diffusae.steering.edited import EditedPictures, Place, Trial
from diffusae.steering.spatial_directions import METHODS, Directions, directions_of
from diffusae.study.study import Study, build

UNEDITED = "no_edit"


@dataclass(frozen=True)
class Case:
    """One object in one picture that is to go to one region."""

    prompt: Prompt
    noun: str
    region: str


@dataclass(frozen=True, eq=False)
class Outcome:
    """What one method made of one case at one strength."""

    method: str
    strength: float
    case: Case
    moved: Moved
    picture: np.ndarray


def spatial_rows(study: Study, _embedding: Any) -> list[Result]:
    """Success, recognisability, change of the rest and the strength that suffices, of the concepts
    and every control.
    """
    settings = study.part("evaluation")
    check_settings(settings)
    sae, _ = load_sae(study.sae)
    cases = {
        split: cases_of(
            study.prompts, split, build(study.cfg.annotator, "annotator").labels, settings
        )
        for split in ("tune", "test")
    }
    nouns = sorted({case.noun for each in cases.values() for case in each})
    mover = _Mover(
        EditedPictures(
            study,
            [Place(study.cell.block, window_at(study.cell.t))],
            conditionings=settings["conditionings"],
            steps=settings["steps"],
        ),
        sae,
        directions_of(study, sae, nouns, n_latents=settings["n_latents"]),
        {name: Region(name) for name in settings["regions"]},
    )
    tuned = mover.outcomes(cases["tune"], dict.fromkeys(METHODS, settings["strengths"]))
    best = {
        method: max(settings["strengths"], key=lambda s, m=method: (_rate(_of(tuned, m, s)), -s))
        for method in METHODS
    }
    tested = mover.outcomes(
        cases["test"], {method: [strength] for method, strength in best.items()}
    )
    directory = study.evaluation("spatial")
    _save_table(directory, tuned=tuned, tested=tested)
    save_examples(directory, list(_examples(tested, mover.regions, settings["examples"])))
    return _results(study, tested, tuned, best, settings)


def check_settings(settings: Mapping[str, Any]) -> None:
    """Refuse what cannot be evaluated, all in one `UserError`."""
    faults = [
        f"evaluation.{name}={settings[name]} must be at least 1; raise it"
        for name in ("tune_prompts", "test_prompts", "n_latents")
        if settings[name] < 1
    ]
    if not settings["strengths"] or min(settings["strengths"]) <= 0:
        faults.append(
            f"evaluation.strengths={settings['strengths']} must hold numbers above 0; give some"
        )
    if not settings["regions"]:
        faults.append("evaluation.regions is empty; name a region, such as top_left")
    together(faults)


def cases_of(
    prompts: Sequence[Prompt], split: str, vocabulary: tuple[str, ...], settings: Mapping[str, Any]
) -> list[Case]:
    """Every region for the first prompts of the split that name one object only, so that it is
    clear which to move.

    Raises:
        UserError: the split has no such prompt.
    """
    named = [
        (prompt, nouns_in(prompt.text, vocabulary)) for prompt in prompts if prompt.split == split
    ]
    single = [(prompt, nouns[0]) for prompt, nouns in named if len(nouns) == 1][
        : settings[f"{split}_prompts"]
    ]
    if not single:
        raise UserError(
            f"no prompt of split {split!r} names exactly one object that the annotator knows; give"
            " some"
        )
    return [Case(prompt, noun, region) for prompt, noun in single for region in settings["regions"]]


class _Mover:
    """Makes the pictures of cases, and judges them."""

    def __init__(
        self,
        pictures: EditedPictures,
        sae: SparseAutoencoder,
        directions: Directions,
        regions: Mapping[str, Region],
    ) -> None:
        self.pictures, self.sae, self.directions, self.regions = pictures, sae, directions, regions

    def outcomes(
        self, cases: Sequence[Case], strengths: Mapping[str, Sequence[float]]
    ) -> list[Outcome]:
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
            i: (image, found.masks) for i, (image, found) in zip(unedited, made, strict=False)
        }
        size = next(iter(before.values()))[0].shape[:2]
        masks = {name: region.mask(size).numpy() for name, region in self.regions.items()}

        def judged(
            method: str, strength: float, case: Case, after: tuple[np.ndarray, Any]
        ) -> Outcome:
            outcome = moved(
                case.noun, masks[case.region], before=before[case.prompt.image_id], after=after
            )
            return Outcome(method, strength, case, outcome, after[0])

        return [
            *(judged(UNEDITED, 0.0, case, before[case.prompt.image_id]) for case in cases),
            *(
                judged(method, strength, case, (image, found.masks))
                for (method, strength, case, _), (image, found) in zip(
                    jobs, made[len(unedited) :], strict=True
                )
            ),
        ]


def _of(outcomes: Iterable[Outcome], method: str, strength: float | None = None) -> list[Outcome]:
    return [
        each for each in outcomes if each.method == method and strength in (None, each.strength)
    ]


def _rate(outcomes: Sequence[Outcome]) -> float:
    """Success on the tuning prompts; an object that is lost is no success."""
    return float(np.mean([each.moved.success for each in outcomes])) if outcomes else 0.0


def _sufficient(outcomes: Iterable[Outcome]) -> dict[Case, float | None]:
    """The weakest strength tried with which each case succeeded; None: with none."""
    weakest: dict[Case, float | None] = {}
    for each in sorted(outcomes, key=lambda outcome: outcome.strength):
        if weakest.setdefault(each.case, None) is None and each.moved.success:
            weakest[each.case] = each.strength
    return weakest


def _save_table(directory: Any, **splits: Sequence[Outcome]) -> None:
    names = {"tuned": "tune", "tested": "test"}
    rows = [
        {
            "split": names[split],
            "method": each.method,
            "strength": each.strength,
            "prompt": each.case.prompt.text,
            "noun": each.case.noun,
            "image_id": each.case.prompt.image_id,
            "region": each.case.region,
            **vars(each.moved),
        }
        for split, outcomes in splits.items()
        for each in outcomes
    ]
    with atomic_path(directory / "objects.parquet") as temporary:
        pd.DataFrame(rows).to_parquet(temporary, engine="pyarrow", index=False)


def _examples(
    tested: Sequence[Outcome], regions: Mapping[str, Region], count: int
) -> Iterable[Kept]:
    """The first cases of different prompts, each prompt with the next region: the region on the
    unedited picture, then the picture of every method that has a direction.
    """
    of_prompt: dict[str, list[Case]] = defaultdict(list)
    for each in _of(tested, UNEDITED):
        of_prompt[each.case.prompt.image_id].append(each.case)
    chosen = [cases[n % len(cases)] for n, cases in enumerate(list(of_prompt.values())[:count])]
    for case in chosen:
        for each in tested:
            if each.case == case:
                about = {
                    "case": f"{case.noun} to {case.region}",
                    "image_id": case.prompt.image_id,
                    "prompt": case.prompt.text,
                }
                if each.method == UNEDITED:
                    lit = regions[case.region].lit(each.picture)
                    yield Kept(
                        **about, method=TARGET_REGION, strength=0.0, success=False, picture=lit
                    )
                yield Kept(
                    **about,
                    method=each.method,
                    strength=each.strength,
                    success=each.moved.success,
                    picture=each.picture,
                )


def _results(
    study: Study,
    tested: Sequence[Outcome],
    tuned: Sequence[Outcome],
    best: Mapping[str, float],
    settings: Mapping[str, Any],
) -> list[Result]:
    def mean(values: Mapping[Any, float] | Sequence[float], cases: Sequence[Case]) -> Estimate:
        return bootstrap_mean(
            list(values),
            groups=[case.prompt.image_id for case in cases],
            n_resamples=settings["n_resamples"],
            seed=study.cfg.seed,
        )

    def estimate(method: str, field: str) -> Estimate:
        outcomes = _of(tested, method)
        return mean(
            [float(getattr(each.moved, field)) for each in outcomes],
            [each.case for each in outcomes],
        )

    def sufficient(method: str) -> Estimate:
        enough = {case: s for case, s in _sufficient(_of(tuned, method)).items() if s is not None}
        return mean(list(enough.values()), list(enough)) if enough else NO_DATA

    cases = {each.case for each in _of(tested, UNEDITED)}
    details = {
        "window": list(window_at(study.cell.t)),
        "conditionings": settings["conditionings"],
        "n_latents": settings["n_latents"],
        "strength": best["concepts"],
        "strengths": dict(best),
        "tuning": {
            method: {str(s): round(_rate(_of(tuned, method, s)), 4) for s in settings["strengths"]}
            for method in METHODS
        },
        "without_concept": sorted(
            {c.noun for c in cases} - {each.case.noun for each in _of(tested, "concepts")}
        ),
        "without_dictionary_concept": sorted(
            {c.noun for c in cases}
            - {each.case.noun for each in _of(tested, "dictionary_concepts")}
        ),
    }
    fields = (
        ("success", "spatial_success", True, "share"),
        ("found", "spatial_recognised", True, "share"),
        ("rest", "spatial_rest_changed", False, "RMS of full scale"),
    )
    rows = [
        Result(
            metric=metric,
            estimate=estimate("concepts", field),
            higher_is_better=higher,
            unit=unit,
            cell=study.cell.coordinates(),
            baselines={name: estimate(name, field) for name in (UNEDITED, *METHODS[1:])},
            details=details,
        )
        for field, metric, higher, unit in fields
    ]
    never = {m: sum(s is None for s in _sufficient(_of(tuned, m)).values()) for m in METHODS}
    return [
        *rows,
        Result(
            metric="spatial_sufficient_strength",
            estimate=sufficient("concepts"),
            higher_is_better=False,
            unit="lengths of a position's code",
            cell=study.cell.coordinates(),
            baselines={name: sufficient(name) for name in METHODS[1:]},
            details={**details, "cases_that_no_strength_moved": never},
        ),
    ]
