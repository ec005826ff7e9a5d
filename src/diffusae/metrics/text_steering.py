"""Steering at one cell, an autoencoder of a text encoder's layer: does a concept come into
pictures, and does it go?
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from diffusae.backbone.text_layers import names_text_layer
from diffusae.errors import together, unknown
from diffusae.evaluation.result import Estimate, Result, bootstrap_mean
from diffusae.files import atomic_path
from diffusae.interventions.text import TextEdit
from diffusae.prompts.prompt_set import Prompt
from diffusae.report.before_after import Kept, save_examples
from diffusae.sae.storage import load_sae
from diffusae.steering.edited import EditedPictures, Trial
from diffusae.study.study import Study

METRIC = "steering"
TEXT_EDIT, UNEDITED = "text_edit", "no_edit"


@dataclass(frozen=True)
class Case:
    """One caption to be steered by one concept, which it names or does not."""

    prompt: Prompt
    concept: str
    named: bool

    def wanted(self, strength: float) -> bool:
        """Whether this strength is asked of it: away where it is named, towards where it is not."""
        return (strength < 0) == self.named


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a strength made of a case; 0: nothing was edited.

    Attributes:
        shows: whether the annotator finds the concept.
        kept: whether every other object found without the edit is still found.
    """

    case: Case
    strength: float
    shows: bool
    kept: bool
    picture: np.ndarray

    @property
    def success(self) -> bool:
        """It shows what its caption does not name, or does not show what it names."""
        return self.shows != self.case.named


def steering_rows(study: Study, _embedding: Any) -> list[Result]:
    """Success and kept objects, towards and away; trials.parquet has a row a picture."""
    settings = study.part("evaluation")
    check_settings(study, settings)
    pictures = EditedPictures(
        study, [], conditionings=settings["conditionings"], steps=settings["steps"]
    )
    known = {
        *pictures.annotator.labels,
        *(v for values in pictures.annotator.factors.values() for v in values),
    }
    together(
        str(
            unknown(
                "concept in evaluation.concepts, of those that the annotator knows,", concept, known
            )
        )
        for concept in settings["concepts"]
        if concept not in known
    )
    sae, _ = load_sae(study.sae)
    sae.to(pictures.device)
    edits = {
        (concept, strength): TextEdit(
            study.cell.block, sae, tuple(prompts), strength, tuple(settings["conditionings"])
        )
        for concept, prompts in settings["concepts"].items()
        for strength in settings["strengths"]
    }
    splits = {
        split: outcomes_of(
            pictures,
            cases_of(study.prompts, split, settings["concepts"], settings[f"{split}_prompts"]),
            edits,
            examples=settings["examples"] if split == "test" else 0,
        )
        for split in ("tune", "test")
    }
    directory = study.evaluation(METRIC)
    _save_table(directory, splits)
    save_examples(directory, list(_examples(splits["test"], settings["examples"])))
    return list(_results(study, splits, settings))


def check_settings(study: Study, settings: Mapping[str, Any]) -> None:
    """Refuse what cannot be evaluated, all in one `UserError`."""
    faults = []
    if not names_text_layer(study.cell.block):
        faults.append(
            f"block {study.cell.block} is no layer of a text encoder; set collection=text, and"
            " block.name to one such as text_2"
        )
    faults += [
        f"evaluation.{name}={settings[name]} must be at least 1; raise it"
        for name in ("tune_prompts", "test_prompts")
        if settings[name] < 1
    ]
    strengths = settings["strengths"]
    if not strengths or not all(math.isfinite(s) and s for s in strengths):
        faults.append(
            f"evaluation.strengths={strengths} must be finite numbers other than 0; give some"
        )
    if not settings["concepts"]:
        faults.append("evaluation.concepts is empty; name one with its concept prompts")
    if "uncond" in settings["conditionings"] and "uncond" not in study.branches:
        faults.append(
            f"{study.cfg.model.name} runs without classifier-free guidance; set"
            " evaluation.conditionings=[cond]"
        )
    together(faults)


def cases_of(
    prompts: Sequence[Prompt], split: str, concepts: Iterable[str], count: int
) -> list[Case]:
    """For every concept the split's first captions that name it, and the first that do not, `count`
    of each.

    Raises:
        UserError: the split has no caption of one kind for some concept.
    """
    found, faults = [], []
    for concept in concepts:
        word = re.compile(rf"\b{re.escape(concept)}\b", re.IGNORECASE)
        for named in (True, False):
            of_kind = [
                p for p in prompts if p.split == split and bool(word.search(p.text)) == named
            ][:count]
            if not of_kind:
                does = "names" if named else "does not name"
                faults.append(
                    f"no caption of split {split!r} {does} {concept!r}; raise"
                    f" prompts.counts.{split}, or leave it out"
                )
            found += [Case(prompt, concept, named) for prompt in of_kind]
    together(faults)
    return found


def outcomes_of(
    pictures: EditedPictures,
    cases: Sequence[Case],
    edits: Mapping[tuple[str, float], TextEdit],
    *,
    examples: int,
) -> list[Outcome]:
    """Every case without an edit and at each strength that is asked of it; the first `examples` of
    a kind at all.
    """
    whole = {case for kind in kinds_of(cases) for case in kind[:examples]}
    jobs = [
        (case, strength, edit)
        for (concept, strength), edit in edits.items()
        for case in cases
        if case.concept == concept and (case.wanted(strength) or case in whole)
    ]
    plain = {case.prompt.image_id: Trial(case.prompt) for case in cases}
    trials = [Trial(case.prompt, text=(edit,)) for case, _, edit in jobs]
    made = pictures.make([*plain.values(), *trials], what="steered pictures")
    before = dict(zip(plain, made, strict=False))

    def judged(case: Case, strength: float, after: tuple[np.ndarray, Any]) -> Outcome:
        image, found = after
        old = set(before[case.prompt.image_id][1].masks) - {case.concept}
        shows = case.concept in found.masks or case.concept in found.factors.values()
        return Outcome(case, strength, shows, old <= set(found.masks), image)

    return [
        *(judged(case, 0.0, before[case.prompt.image_id]) for case in cases),
        *(
            judged(case, s, after)
            for (case, s, _), after in zip(jobs, made[len(plain) :], strict=True)
        ),
    ]


def kinds_of(cases: Iterable[Case]) -> list[list[Case]]:
    """Cases by concept, and whether it is named, in their order."""
    kinds: dict[tuple[str, bool], list[Case]] = {}
    for case in cases:
        kinds.setdefault((case.concept, case.named), []).append(case)
    return list(kinds.values())


def _of(outcomes: Iterable[Outcome], named: bool, strength: float) -> list[Outcome]:
    return [each for each in outcomes if each.case.named == named and each.strength == strength]


def _save_table(directory: Any, splits: Mapping[str, Sequence[Outcome]]) -> None:
    rows = [
        {
            "split": split,
            "concept": each.case.concept,
            "named": each.case.named,
            "strength": each.strength,
            "image_id": each.case.prompt.image_id,
            "prompt": each.case.prompt.text,
            "shows": each.shows,
            "kept": each.kept,
        }
        for split, outcomes in splits.items()
        for each in outcomes
    ]
    with atomic_path(directory / "trials.parquet") as temporary:
        pd.DataFrame(rows).to_parquet(temporary, engine="pyarrow", index=False)


def _examples(tested: Sequence[Outcome], count: int) -> Iterator[Kept]:
    """The first captions of each kind at every strength, by rising strength."""
    for kind in kinds_of(each.case for each in tested if each.strength == 0):
        for case in kind[:count]:
            of_case = [each for each in tested if each.case == case]
            for each in sorted(of_case, key=lambda outcome: outcome.strength):
                yield Kept(
                    case=f"{'away from' if case.named else 'towards'} {case.concept}",
                    image_id=case.prompt.image_id,
                    prompt=case.prompt.text,
                    method=TEXT_EDIT if each.strength else UNEDITED,
                    strength=each.strength,
                    success=each.success,
                    picture=each.picture,
                )


def _results(
    study: Study, splits: Mapping[str, Sequence[Outcome]], settings: Mapping[str, Any]
) -> Iterator[Result]:
    for direction, named in (("towards", False), ("away", True)):
        strengths = [strength for strength in settings["strengths"] if (strength < 0) == named]
        if not strengths:
            continue
        best = max(
            strengths, key=lambda s, named=named: (_both(_of(splits["tune"], named, s)), -abs(s))
        )
        yield from _rows(
            study, splits, settings, direction, named=named, strengths=strengths, best=best
        )


def _both(outcomes: Sequence[Outcome]) -> float:
    """The share that did what was asked and kept their objects."""
    return float(np.mean([each.success and each.kept for each in outcomes])) if outcomes else 0.0


def _rows(
    study: Study,
    splits: Mapping[str, Sequence[Outcome]],
    settings: Mapping[str, Any],
    direction: str,
    *,
    named: bool,
    strengths: Sequence[float],
    best: float,
) -> Iterator[Result]:
    """Success at the best strength and the objects that it kept, one direction."""
    tested = [each for each in splits["test"] if each.case.named == named]
    tested = [each for each in tested if each.strength == 0 or each.case.wanted(each.strength)]

    def share(field: str, outcomes: Sequence[Outcome]) -> Estimate:
        return bootstrap_mean(
            [float(getattr(each, field)) for each in outcomes],
            groups=[each.case.prompt.image_id for each in outcomes],
            n_resamples=settings["n_resamples"],
            seed=study.cfg.seed,
        )

    def figures(field: str) -> dict[str, Any]:
        return {f"{s:g}": _told(share(field, _of(tested, named, s))) for s in (0.0, *strengths)}

    details = {
        "strength": best,
        "conditionings": settings["conditionings"],
        "tuning": {f"{s:g}": round(_both(_of(splits["tune"], named, s)), 4) for s in strengths},
        "by_concept": {
            concept: {
                f"{s:g}": _told(
                    share(
                        "success", [o for o in _of(tested, named, s) if o.case.concept == concept]
                    )
                )
                for s in (0.0, *strengths)
            }
            for concept in settings["concepts"]
        },
    }
    for field, metric in (
        ("success", f"steering_{direction}"),
        ("kept", f"steering_{direction}_kept"),
    ):
        baselines = {UNEDITED: share(field, _of(tested, named, 0.0))}
        if (
            metric == "steering_towards"
        ):  # what a caption that names the concept reaches without an edit
            other = _of(splits["test"], True, 0.0)
            baselines["named_in_caption_ceiling"] = share("shows", other)
        yield Result(
            metric=metric,
            estimate=share(field, _of(tested, named, best)),
            higher_is_better=True,
            unit="share",
            cell=study.cell.coordinates(),
            baselines=baselines,
            details={**details, "by_strength": figures(field)},
        )


def _told(estimate: Estimate) -> dict[str, Any]:
    return {"value": estimate.value, "ci95": estimate.ci95, "n": estimate.n}
