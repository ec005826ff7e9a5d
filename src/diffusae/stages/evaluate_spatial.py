"""Spatial intervention at one cell: objects moved to each quadrant by their concepts, beside the controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from diffusae.activations.manifest import Manifest
from diffusae.activations.reader import load_updates
from diffusae.concepts.annotations import Annotations
from diffusae.concepts.dictionary import ConceptDictionary
from diffusae.errors import UserError, together
from diffusae.evaluation.intervention_success import Moved, moved
from diffusae.evaluation.result import Estimate, Result, bootstrap_mean
from diffusae.files import atomic_path
from diffusae.interventions.directions import difference_of_means, neuron
from diffusae.interventions.edits import SpatialMove, concept_direction
from diffusae.interventions.regions import Region
from diffusae.interventions.windows import window_at
from diffusae.prompts.prompt_set import Prompt
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.storage import load_sae
from diffusae.stages.codes import stream_of
from diffusae.stages.edited import EditedPictures, Trial
from diffusae.stages.evaluate_composition import nouns_in
from diffusae.stages.study import Study, build

INSIDE, OUTSIDE = 0.5, 0.05
"""Shares of a position that an object covers at the least, and at the most, to count as the object or as ground."""

METHODS = ("concepts", "difference_of_means", "random_latent", "neuron")


@dataclass(frozen=True)
class Case:
    """One object in one picture that is to go to one region."""

    prompt: Prompt
    noun: str
    region: str


def spatial_rows(study: Study, _embedding: Any) -> list[Result]:
    """Success, recognisability and change of the rest, each of the SAE's concepts and of every control."""
    settings = study.part("evaluation")
    check_settings(settings)
    sae, _ = load_sae(study.sae)
    cases = {
        split: cases_of(study.prompts, split, build(study.cfg.annotator).labels, settings)
        for split in ("tune", "test")
    }
    directions = directions_of(study, sae, sorted({case.noun for each in cases.values() for case in each}))
    pictures = EditedPictures(
        study,
        [study.cell.block],
        window=window_at(study.cell.t),
        conditionings=settings["conditionings"],
        steps=settings["steps"],
    )
    regions = {name: Region(name) for name in settings["regions"]}
    tuned = _judge(pictures, sae, directions, cases["tune"], regions, settings["strengths"])
    best = {
        method: max(settings["strengths"], key=lambda s, m=method: (_rate(tuned[m, s]), -s))
        for method in METHODS
    }
    tested = _judge(pictures, sae, directions, cases["test"], regions, sorted({*best.values()}), only=best)
    rows = [
        {"split": split, "method": method, "strength": strength, "prompt": case.prompt.text, "noun": case.noun,
         "image_id": case.prompt.image_id, "region": case.region, **vars(outcome)}
        for split, judged in (("tune", tuned), ("test", tested))
        for (method, strength), outcomes in judged.items()
        for case, outcome in outcomes
    ]  # fmt: skip
    with atomic_path(study.evaluation("spatial") / "objects.parquet") as temporary:
        pd.DataFrame(rows).to_parquet(temporary, engine="pyarrow", index=False)
    return _results(study, tested, tuned, best, cases["test"], settings)


def check_settings(settings: Mapping[str, Any]) -> None:
    """Refuse what cannot be evaluated, all in one `UserError`."""
    faults = [
        f"evaluation.{name}={settings[name]} must be at least 1; raise it"
        for name in ("tune_prompts", "test_prompts")
        if settings[name] < 1
    ]
    if not settings["strengths"] or min(settings["strengths"]) <= 0:
        faults.append(f"evaluation.strengths={settings['strengths']} must hold numbers above 0; give some")
    if not settings["regions"]:
        faults.append("evaluation.regions is empty; name a region, such as top_left")
    together(faults)


def cases_of(
    prompts: Sequence[Prompt], split: str, vocabulary: tuple[str, ...], settings: Mapping[str, Any]
) -> list[Case]:
    """Every region for the first prompts of the split that name one object only, so that it is clear which to move.

    Raises:
        UserError: the split has no such prompt.
    """
    named = [(prompt, nouns_in(prompt.text, vocabulary)) for prompt in prompts if prompt.split == split]
    single = [(prompt, nouns[0]) for prompt, nouns in named if len(nouns) == 1][
        : settings[f"{split}_prompts"]
    ]
    if not single:
        raise UserError(
            f"no prompt of split {split!r} names exactly one object that the annotator knows; give some"
        )
    return [Case(prompt, noun, region) for prompt, noun in single for region in settings["regions"]]


def directions_of(study: Study, sae: SparseAutoencoder, nouns: Sequence[str]) -> dict[str, dict[str, Tensor]]:
    """{method: {noun: direction of unit length}}; a noun without a concept in this cell has none of `concepts`.

    `difference_of_means` and `neuron` come from the same pictures as the dictionary; `random_latent` is one of the
    latents that fire there and that no noun's entry holds, drawn from the study's seed.
    """
    dictionary = ConceptDictionary.load(study.concepts)
    manifest = Manifest.load(study.activations)
    stream = stream_of(study, manifest)
    image_ids, updates = load_updates(study.activations, manifest, stream, "dictionary")
    vectors = torch.from_numpy(updates).float().flatten(0, 1)
    masks = Annotations.load(study.annotations).masks
    ground = torch.cat([_share(list(masks[i].values()), stream.grid) for i in image_ids]) < OUTSIDE
    alive = dictionary.latents.loc[dictionary.latents["pictures_active"] > 0, "latent"]
    free = sorted(set(alive.tolist()) - set(dictionary.table["latent"].tolist())) or alive.tolist()
    drawn = np.random.default_rng(study.cfg.seed)
    found: dict[str, dict[str, Tensor]] = {method: {} for method in METHODS}
    for noun in nouns:
        objects = [[masks[i][noun]] if noun in masks[i] else [] for i in image_ids]
        there = torch.cat([_share(each, stream.grid) for each in objects]) > INSIDE
        if there.any() and ground.any():
            found["difference_of_means"][noun] = difference_of_means(vectors, there, ground)
            found["neuron"][noun] = neuron(found["difference_of_means"][noun])
        if latents := dictionary.latents_of(noun):
            found["concepts"][noun] = concept_direction(sae, latents)
        found["random_latent"][noun] = concept_direction(sae, [int(drawn.choice(free))])
    return found


def _share(masks: Sequence[np.ndarray], grid: tuple[int, int]) -> Tensor:
    """The share of every position that any of the masks covers, [P]."""
    if not masks:
        return torch.zeros(grid[0] * grid[1])
    union = torch.from_numpy(np.stack(list(masks)).any(axis=0)).float()
    return F.adaptive_avg_pool2d(union[None, None], grid).flatten()


Judged = dict[tuple[str, float], list[tuple[Case, Moved]]]


def _judge(
    pictures: EditedPictures,
    sae: SparseAutoencoder,
    directions: Mapping[str, Mapping[str, Tensor]],
    cases: Sequence[Case],
    regions: Mapping[str, Region],
    strengths: Sequence[float],
    *,
    only: Mapping[str, float] | None = None,
) -> Judged:
    """The outcomes of every method at every strength (or at its `only` one), and of no edit at strength 0."""
    unedited = {case.prompt.image_id: Trial(case.prompt) for case in cases}
    jobs = [
        (method, strength, case, directions[method][case.noun])
        for method in METHODS
        for strength in strengths
        if only is None or only[method] == strength
        for case in cases
        if case.noun in directions[method]
    ]
    trials = [
        Trial(case.prompt, (SpatialMove(sae, direction, regions[case.region], strength=strength),))
        for _, strength, case, direction in jobs
    ]
    made = pictures.make([*unedited.values(), *trials], what="edited pictures")
    before = {i: (image, found.masks) for i, (image, found) in zip(unedited, made, strict=False)}
    judged: Judged = {(method, strength): [] for method in METHODS for strength in strengths}
    size = next(iter(before.values()))[0].shape[:2]
    masks = {name: region.mask(size).numpy() for name, region in regions.items()}
    judged["no_edit", 0.0] = [
        (case, moved(case.noun, masks[case.region], before=old, after=old))
        for case in cases
        for old in [before[case.prompt.image_id]]
    ]
    for (method, strength, case, _), (image, found) in zip(jobs, made[len(unedited) :], strict=True):
        outcome = moved(
            case.noun,
            masks[case.region],
            before=before[case.prompt.image_id],
            after=(image, found.masks),
        )
        judged[method, strength].append((case, outcome))
    return judged


def _rate(outcomes: Sequence[tuple[Case, Moved]]) -> float:
    """Success on the tuning prompts; an object that is lost is no success."""
    return float(np.mean([outcome.success for _, outcome in outcomes])) if outcomes else 0.0


def _results(
    study: Study,
    tested: Judged,
    tuned: Judged,
    best: Mapping[str, float],
    cases: Sequence[Case],
    settings: Mapping[str, Any],
) -> list[Result]:
    def estimate(method: str, field: str) -> Estimate:
        outcomes = tested["no_edit", 0.0] if method == "no_edit" else tested[method, best[method]]
        return bootstrap_mean(
            [float(getattr(outcome, field)) for _, outcome in outcomes],
            groups=[case.prompt.image_id for case, _ in outcomes],
            n_resamples=settings["n_resamples"],
            seed=study.cfg.seed,
        )

    details = {
        "window": list(window_at(study.cell.t)),
        "conditionings": settings["conditionings"],
        "strength": best["concepts"],
        "strengths": dict(best),
        "tuning": {
            method: {str(s): round(_rate(tuned[method, s]), 4) for s in settings["strengths"]} for method in METHODS
        },
        "without_concept": sorted({c.noun for c in cases} - {c.noun for c, _ in tested["concepts", best["concepts"]]}),
    }  # fmt: skip
    fields = (("success", "spatial_success", True, "share"), ("found", "spatial_recognised", True, "share"),
              ("rest", "spatial_rest_changed", False, "RMS of full scale"))  # fmt: skip
    return [
        Result(
            metric=metric,
            estimate=estimate("concepts", field),
            higher_is_better=higher,
            unit=unit,
            cell=study.cell.coordinates(),
            baselines={name: estimate(name, field) for name in ("no_edit", *METHODS[1:])},
            details=details,
        )
        for field, metric, higher, unit in fields
    ]
