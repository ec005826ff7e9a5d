"""Global intervention at one cell: styles added everywhere by their concepts, beside the controls."""

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
from diffusae.activations.reader import read_images
from diffusae.errors import UserError, together, unknown
from diffusae.evaluation.intervention_success import Restyled, restyled
from diffusae.evaluation.result import Estimate, Result, bootstrap_mean
from diffusae.files import atomic_path
from diffusae.interventions.directions import difference_of_means, neuron
from diffusae.interventions.edits import Change, GlobalPush, concept_direction
from diffusae.interventions.windows import window_at
from diffusae.prompts.prompt_set import Prompt
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.storage import load_sae
from diffusae.stages.codes import coded_split
from diffusae.stages.edited import EditedPictures, Trial
from diffusae.stages.study import Study

METHODS = ("concepts", "difference_of_means", "random_latent", "neuron")

Factors = Mapping[str, Sequence[str]]
"""Factor, such as style, to the names of its values, in the order of the annotator's scores."""


@dataclass(frozen=True)
class Case:
    """One picture that is to take on one value of a factor."""

    prompt: Prompt
    factor: str
    target: str


@dataclass(frozen=True)
class BlockDirections:
    """One edited block: its SAE, and {(method, factor, value): direction of unit length}."""

    sae: SparseAutoencoder
    directions: dict[tuple[str, str, str], Tensor]


def global_rows(study: Study, _embedding: Any) -> list[Result]:
    """For every factor: does its score rise, is the target reached, how much of the picture is kept."""
    settings = study.part("evaluation")
    check_settings(settings)
    pictures = EditedPictures(
        study,
        blocks := settings["blocks"] or [study.cell.block],
        window=window_at(study.cell.t),
        conditionings=settings["conditionings"],
        steps=settings["steps"],
    )
    names = factors_of(pictures.annotator, settings["factors"])
    shown = factors_shown(study, pictures.annotator)
    edited = [
        block_directions(study, block, shown, names, n_latents=settings["n_latents"]) for block in blocks
    ]
    prompts = {split: _prompts(study, split, settings) for split in ("tune", "test")}
    unedited = [Trial(prompt) for each in prompts.values() for prompt in each]
    plain = pictures.make(unedited, what="unedited pictures")
    before = {trial.prompt.image_id: made for trial, made in zip(unedited, plain, strict=True)}
    cases = {split: cases_of(each, before, names) for split, each in prompts.items()}
    tuned = _judge(pictures, edited, before, names, [
        (case, method, strength)
        for case in cases["tune"] for method in METHODS for strength in settings["strengths"]
    ])  # fmt: skip
    best = {
        (method, factor): max(settings["strengths"], key=lambda s, m=method, f=factor: _score(tuned, m, f, s))
        for method in METHODS
        for factor in names
    }
    tested = _judge(pictures, edited, before, names, [
        (case, method, best[method, case.factor]) for case in cases["test"] for method in METHODS
    ])  # fmt: skip
    table = pd.concat([tuned.assign(split="tune"), tested.assign(split="test")])
    with atomic_path(study.evaluation("global") / "pictures.parquet") as temporary:
        table.to_parquet(temporary, engine="pyarrow", index=False)
    return [row for factor in names for row in _results(study, factor, tested, tuned, best, settings, blocks)]


def check_settings(settings: Mapping[str, Any]) -> None:
    """Refuse what cannot be evaluated, all in one `UserError`."""
    faults = [
        f"evaluation.{name}={settings[name]} must be at least 1; raise it"
        for name in ("tune_prompts", "test_prompts", "n_latents")
        if settings[name] < 1
    ]
    if not settings["strengths"] or min(settings["strengths"]) <= 0:
        faults.append(f"evaluation.strengths={settings['strengths']} must hold numbers above 0; give some")
    if not settings["factors"]:
        faults.append("evaluation.factors is empty; name a factor, such as style")
    together(faults)


def cases_of(
    prompts: Sequence[Prompt], before: Mapping[str, tuple[np.ndarray, Any]], names: Factors
) -> list[Case]:
    """One target a prompt and factor: a value that the unedited picture does not show, each as often as the others."""
    cases = []
    for factor, values in names.items():
        for number, prompt in enumerate(prompts):
            scores = before[prompt.image_id][1].scores[factor]
            others = [value for n, value in enumerate(values) if n != int(np.argmax(scores))]
            cases.append(Case(prompt, factor, others[number % len(others)]))
    return cases


def block_directions(
    study: Study,
    block: str,
    shown: Mapping[str, Mapping[str, str]],
    names: Factors,
    *,
    n_latents: int,
) -> BlockDirections:
    """The directions of every value in one block, from the pictures of the dictionary split.

    `concepts`: the `n_latents` latents whose spatial mean tells pictures with the value from the others best (by the
    difference of means in standard deviations), each weighted by that difference. `difference_of_means` and `neuron`
    come from the same pictures' mean updates; `random_latent` is one that fires there.
    """
    there = _at_block(study, block)
    sae, _ = load_sae(there.sae)
    coded = coded_split(there, Manifest.load(there.activations), sae, "dictionary")
    means = torch.zeros(len(coded.values), sae.d_sae)
    means.scatter_add_(1, coded.indices.flatten(1).long(), coded.values.flatten(1) / coded.values.shape[1])
    deviation = means.std(dim=0).clamp_min(torch.finfo(means.dtype).tiny)
    alive = (means > 0).any(dim=0).nonzero().squeeze(1).tolist()
    updates = coded.updates.mean(dim=1)
    drawn = np.random.default_rng(study.cfg.seed)
    found: dict[tuple[str, str, str], Tensor] = {}
    for factor, values in names.items():
        for value in values:
            found["random_latent", factor, value] = concept_direction(sae, [int(drawn.choice(alive))])
            having = torch.tensor([shown[i][factor] == value for i in coded.image_ids])
            if not having.any() or having.all():
                continue
            difference = means[having].mean(dim=0) - means[~having].mean(dim=0)
            best = (difference / deviation).topk(min(n_latents, len(alive))).indices
            weighted = difference[best].clamp_min(0)[:, None] * sae.directions.detach()[best]
            found["concepts", factor, value] = F.normalize(weighted.sum(dim=0), dim=0)
            steering = difference_of_means(updates, having, ~having)
            found["difference_of_means", factor, value] = steering
            found["neuron", factor, value] = neuron(steering)
    return BlockDirections(sae, found)


def _at_block(study: Study, block: str) -> Study:
    cfg = study.cfg.copy()
    cfg.block.name = block
    return Study(cfg)


def factors_of(annotator: Any, wanted: Sequence[str] | None) -> Factors:
    """The factors that the annotator tells, all of them or those `wanted`; `UserError` for one that it does not."""
    known: Factors = getattr(annotator, "factors", {})
    wanted = list(known) if wanted is None else wanted
    for factor in wanted:
        if factor not in known:
            raise unknown("factor of this annotator", factor, known)
    return {factor: known[factor] for factor in wanted}


def factors_shown(study: Study, annotator: Any) -> dict[str, dict[str, str]]:
    """What each picture of the dictionary split shows: {image id: {factor: value}}."""
    rows = list(read_images(study.activations, Manifest.load(study.activations), "dictionary"))
    annotations = annotator.annotate(np.stack([picture for _, picture, _ in rows]))
    return {image_id: found.factors for (image_id, *_), found in zip(rows, annotations, strict=True)}


def _prompts(study: Study, split: str, settings: Mapping[str, Any]) -> list[Prompt]:
    found = [prompt for prompt in study.prompts if prompt.split == split][: settings[f"{split}_prompts"]]
    if not found:
        raise UserError(f"split {split!r} has no prompts; raise prompts.counts.{split}")
    return found


def _judge(
    pictures: EditedPictures,
    edited: Sequence[BlockDirections],
    before: Mapping[str, tuple[np.ndarray, Any]],
    names: Factors,
    wanted: Sequence[tuple[Case, str, float]],
) -> pd.DataFrame:
    """One row an edited picture; cases without a direction in every block have none."""
    jobs = [
        (case, method, strength)
        for case, method, strength in wanted
        if all((method, case.factor, case.target) in block.directions for block in edited)
    ]

    def changes(case: Case, method: str, strength: float) -> tuple[Change, ...]:
        return tuple(
            GlobalPush(block.sae, block.directions[method, case.factor, case.target], strength=strength)
            for block in edited
        )

    made = pictures.make([Trial(job[0].prompt, changes(*job)) for job in jobs], what="edited pictures")
    rows = []
    for (case, method, strength), (image, found) in zip(jobs, made, strict=True):
        old_image, old = before[case.prompt.image_id]
        outcome: Restyled = restyled(
            list(names[case.factor]).index(case.target),
            before=(old_image, old.scores[case.factor], list(old.masks)),
            after=(image, found.scores[case.factor], list(found.masks)),
        )
        rows.append({"method": method, "factor": case.factor, "target": case.target, "strength": strength,
                     "image_id": case.prompt.image_id, "prompt": case.prompt.text, **vars(outcome)})  # fmt: skip
    return pd.DataFrame(rows)


def _of(table: pd.DataFrame, method: str, factor: str, strength: float) -> pd.DataFrame:
    return table.query("method == @method and factor == @factor and strength == @strength")


def _score(table: pd.DataFrame, method: str, factor: str, strength: float) -> tuple[float, float, float]:
    """What the strength is chosen by: targets reached, then scores that rose, then the weaker edit."""
    rows = _of(table, method, factor, strength)
    shares = [float(np.mean(rows[column].tolist() or [0.0])) for column in ("reached", "rose")]
    return shares[0], shares[1], -strength


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
    unedited = {"rose": 0.0, "reached": 0.0, "similarity": 1.0, "kept": 1.0}  # by the choice of the targets
    details = {
        "factor": factor,
        "blocks": list(blocks),
        "window": list(window_at(study.cell.t)),
        "conditionings": settings["conditionings"],
        "strength": best["concepts", factor],
        "strengths": {method: best[method, factor] for method in METHODS},
        "tuning": {
            method: {
                str(s): round(float(_score(tuned, method, factor, s)[0]), 4) for s in settings["strengths"]
            }
            for method in METHODS
        },
    }
    return [
        Result(
            metric=f"{factor}_{column}",
            estimate=estimate("concepts", column),
            higher_is_better=True,
            unit="SSIM" if column == "similarity" else "share",
            cell=study.cell.coordinates(),
            baselines={
                "no_edit": Estimate(unedited[column], None, n),
                **{method: estimate(method, column) for method in METHODS[1:]},
            },
            details=details,
        )
        for column in unedited
    ]
