"""Global intervention at one cell: styles added everywhere by their concepts, beside the
controls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from diffusae.errors import UserError, together
from diffusae.evaluation.intervention_success import FeatureDistance, Restyled, restyled
from diffusae.evaluation.perceptual_distance import PerceptualDistance
from diffusae.evaluation.result import Estimate, Result, bootstrap_mean
from diffusae.files import atomic_path
from diffusae.interventions.edits import Change, GlobalPush
from diffusae.interventions.windows import window_at
from diffusae.prompts.prompt_set import Prompt
from diffusae.report.before_after import Kept, save_examples
from diffusae.steering.edited import EditedPictures, Place, Trial
from diffusae.steering.global_directions import (
    BlockDirections,
    Factors,
    block_directions,
    edited_studies,
    factors_of,
    factors_shown,
)
from diffusae.study.study import Study

METHODS = ("concepts", "difference_of_means", "random_latent", "neuron")
UNEDITED = "no_edit"
FEATURE_DISTANCE, LPIPS = "feature_distance", "lpips"
TOGETHER = "_together"
"""What the metrics' names end in where several blocks are edited."""

Distance = Callable[[np.ndarray, np.ndarray], Sequence[float]]
"""How far apart pictures are, pair by pair."""


@dataclass(frozen=True)
class Case:
    """One picture that is to take on one value of a factor."""

    prompt: Prompt
    factor: str
    target: str


def global_rows(study: Study, _embedding: Any) -> list[Result]:
    """For every factor: does its score rise, is the target reached, how much of the picture is
    kept.
    """
    settings = study.part("evaluation")
    check_settings(settings)
    perceptual = None if settings["lpips"] is None else PerceptualDistance(settings["lpips"]).load()
    there = edited_studies(study)
    blocks = [each.cell.block for each in there]
    pictures = EditedPictures(
        study,
        [Place(block, window_at(study.cell.t)) for block in blocks],
        conditionings=settings["conditionings"],
        steps=settings["steps"],
    )
    factors_of(pictures.annotator, settings["under_objects"])  # refuses unknown ones
    names = factors_of(pictures.annotator, settings["factors"])
    shown = factors_shown(study, pictures.annotator)
    edited = [
        block_directions(
            each,
            shown,
            names,
            n_latents=settings["n_latents"],
            under_objects=settings["under_objects"],
        )
        for each in there
    ]
    prompts = {split: _prompts(study, split, settings) for split in ("tune", "test")}
    unedited = [Trial(prompt) for each in prompts.values() for prompt in each]
    plain = pictures.make(unedited, what="unedited pictures")
    before = {trial.prompt.image_id: made for trial, made in zip(unedited, plain, strict=True)}
    cases = {split: cases_of(each, before, names) for split, each in prompts.items()}
    restyler = _Restyler(pictures, edited, before, names, perceptual=perceptual)
    tuned = restyler.judged([
        (case, method, strength)
        for case in cases["tune"] for method in METHODS for strength in settings["strengths"]
    ]).table  # fmt: skip
    best = {
        (method, factor): max(
            settings["strengths"], key=lambda s, m=method, f=factor: _score(tuned, m, f, s)
        )
        for method in METHODS
        for factor in names
    }
    tested = restyler.judged([
        (case, method, best[method, case.factor]) for case in cases["test"] for method in METHODS
    ])  # fmt: skip
    directory = study.evaluation(settings["name"])
    table = pd.concat([tuned.assign(split="tune"), tested.table.assign(split="test")])
    with atomic_path(directory / "pictures.parquet") as temporary:
        table.to_parquet(temporary, engine="pyarrow", index=False)
    save_examples(directory, list(_examples(tested, cases["test"], before, settings["examples"])))
    return [
        row
        for factor in names
        for row in _results(study, factor, tested.table, tuned, best, settings, blocks)
    ]


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
    if not settings["factors"]:
        faults.append("evaluation.factors is empty; name a factor, such as style")
    together(faults)


def cases_of(
    prompts: Sequence[Prompt], before: Mapping[str, tuple[np.ndarray, Any]], names: Factors
) -> list[Case]:
    """One target a prompt and factor: a value that the unedited picture does not show, each as
    often as the others.
    """
    cases = []
    for factor, values in names.items():
        for number, prompt in enumerate(prompts):
            scores = before[prompt.image_id][1].scores[factor]
            others = [value for n, value in enumerate(values) if n != int(np.argmax(scores))]
            cases.append(Case(prompt, factor, others[number % len(others)]))
    return cases


def _prompts(study: Study, split: str, settings: Mapping[str, Any]) -> list[Prompt]:
    found = [prompt for prompt in study.prompts if prompt.split == split][
        : settings[f"{split}_prompts"]
    ]
    if not found:
        raise UserError(f"split {split!r} has no prompts; raise prompts.counts.{split}")
    return found


@dataclass(frozen=True, eq=False)
class Judged:
    """The outcomes of edited pictures, a row each, and the pictures in the same order."""

    table: pd.DataFrame
    pictures: list[np.ndarray]


class _Restyler:
    """Makes the pictures of cases, and judges them against the unedited ones."""

    def __init__(
        self,
        pictures: EditedPictures,
        edited: Sequence[BlockDirections],
        before: Mapping[str, tuple[np.ndarray, Any]],
        names: Factors,
        *,
        perceptual: PerceptualDistance | None,
    ) -> None:
        self.pictures, self.edited, self.before, self.names = pictures, edited, before, names
        self.distances: dict[str, Distance] = {}
        if (features := getattr(pictures.annotator, "features", None)) is not None:
            self.distances[FEATURE_DISTANCE] = FeatureDistance(
                features, [each for each, _ in before.values()]
            )
        if perceptual is not None:
            self.distances[LPIPS] = perceptual

    def judged(self, wanted: Sequence[tuple[Case, str, float]]) -> Judged:
        """One row an edited picture; cases without a direction in every block have none."""
        jobs = [
            (case, method, strength)
            for case, method, strength in wanted
            if all((method, case.factor, case.target) in block.directions for block in self.edited)
        ]
        for block in self.edited:
            block.sae.to(self.pictures.device)
        made = self.pictures.make(
            [Trial(job[0].prompt, self._changes(*job)) for job in jobs], what="edited pictures"
        )
        images = [image for image, _ in made]
        old_images = [self.before[case.prompt.image_id][0] for case, *_ in jobs]
        distances = {
            name: distance(np.stack(images), np.stack(old_images)) if images else []
            for name, distance in self.distances.items()
        }
        rows = []
        for number, ((case, method, strength), (image, found)) in enumerate(
            zip(jobs, made, strict=True)
        ):
            old_image, old = self.before[case.prompt.image_id]
            outcome: Restyled = restyled(
                list(self.names[case.factor]).index(case.target),
                before=(old_image, old.scores[case.factor], list(old.masks)),
                after=(image, found.scores[case.factor], list(found.masks)),
            )
            rows.append(
                {
                    "method": method,
                    "factor": case.factor,
                    "target": case.target,
                    "strength": strength,
                    "image_id": case.prompt.image_id,
                    "prompt": case.prompt.text,
                    **vars(outcome),
                    **{name: values[number] for name, values in distances.items()},
                }
            )
        return Judged(pd.DataFrame(rows), images)

    def _changes(self, case: Case, method: str, strength: float) -> tuple[Change, ...]:
        return tuple(
            GlobalPush(
                block.sae, block.directions[method, case.factor, case.target], strength=strength
            )
            for block in self.edited
        )


def _examples(
    tested: Judged, cases: Sequence[Case], before: Mapping[str, tuple[np.ndarray, Any]], count: int
) -> Iterator[Kept]:
    """The first cases of each factor: the unedited picture, then every method's."""
    for factor in dict.fromkeys(case.factor for case in cases):
        for case in [each for each in cases if each.factor == factor][:count]:
            about = {
                "case": case.target,
                "image_id": case.prompt.image_id,
                "prompt": case.prompt.text,
            }
            yield Kept(
                **about,
                method=UNEDITED,
                strength=0.0,
                success=False,
                picture=before[case.prompt.image_id][0],
            )
            for row, picture in zip(tested.table.to_dict("records"), tested.pictures, strict=True):
                if (row["image_id"], row["factor"]) == (case.prompt.image_id, factor):
                    yield Kept(
                        **about,
                        method=row["method"],
                        strength=row["strength"],
                        success=row["rose"],
                        picture=picture,
                    )


def _of(table: pd.DataFrame, method: str, factor: str, strength: float) -> pd.DataFrame:
    return table.query("method == @method and factor == @factor and strength == @strength")


def _score(table: pd.DataFrame, method: str, factor: str, strength: float) -> tuple[float, float]:
    """What the strength is chosen by: scores that rose and targets reached, both alike; then the
    weaker edit.
    """
    rows = _of(table, method, factor, strength)
    rose, reached = (
        float(np.mean(rows[column].tolist() or [0.0])) for column in ("rose", "reached")
    )
    return (rose + reached) / 2, -strength


def _results(
    study: Study,
    factor: str,
    tested: pd.DataFrame,
    tuned: pd.DataFrame,
    best: Mapping[tuple[str, str], float],
    settings: Mapping[str, Any],
    blocks: Sequence[str],
) -> list[Result]:
    def estimate(method: str, column: str) -> Estimate:
        rows = _of(tested, method, factor, best[method, factor])
        return bootstrap_mean(
            rows[column].astype(float).tolist(),
            groups=rows["image_id"].tolist(),
            n_resamples=settings["n_resamples"],
            seed=study.cfg.seed,
        )

    n = len(_of(tested, "random_latent", factor, best["random_latent", factor]))
    # By the choice of the targets, no picture shows its own before the edit.
    unedited = {
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
    scores = dict.fromkeys(("score_before", "score_after", "gain"), "the annotator's score")
    units = {
        **scores,
        "similarity": "SSIM",
        FEATURE_DISTANCE: "mean distance of two pictures",
        LPIPS: "LPIPS",
    }
    details = {
        "factor": factor,
        "blocks": list(blocks),
        "window": list(window_at(study.cell.t)),
        "conditionings": settings["conditionings"],
        "n_latents": settings["n_latents"],
        "strength": best["concepts", factor],
        "strengths": {method: best[method, factor] for method in METHODS},
        "tuning": {
            method: {
                str(s): round(float(_score(tuned, method, factor, s)[0]), 4)
                for s in settings["strengths"]
            }
            for method in METHODS
        },
    }
    return [
        Result(
            metric=f"{factor}_{column}{TOGETHER if len(blocks) > 1 else ''}",
            estimate=estimate("concepts", column),
            higher_is_better=column not in (FEATURE_DISTANCE, LPIPS),
            unit=units.get(column, "share"),
            cell=study.cell.coordinates(),
            baselines={
                UNEDITED: (
                    estimate("concepts", "score_before")
                    if (known := unedited[column]) is None
                    else Estimate(known, None, n)
                ),
                **{method: estimate(method, column) for method in METHODS[1:]},
            },
            details=details,
        )
        for column in unedited
        if column in tested
    ]
