"""Steering at one cell, an autoencoder of a text encoder's layer: does a concept come into
pictures, and does it go?
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from diffusae.errors import together
from diffusae.evaluation.alignment import shows
from diffusae.evaluation.metric_settings import InterventionSettings
from diffusae.evaluation.result import Estimate, Result
from diffusae.interventions.text import TextEdit
from diffusae.metrics.directed import mean_over
from diffusae.metrics.metric import Embedding, Metric, unguided
from diffusae.prompts.prompt_set import Prompt
from diffusae.report.before_after import Kept, save_examples
from diffusae.sae.storage import load_sae
from diffusae.steering.edited import EditedPictures, Trial
from diffusae.steering.protocol import Split, Strengths, Tested, tune_choose_test
from diffusae.study.study import Study
from diffusae.table_files import write_table

TEXT_EDIT, UNEDITED = "text_edit", "no_edit"
TOWARDS, AWAY = "towards", "away"


@dataclass(frozen=True, kw_only=True)
class SteeringSettings(InterventionSettings):
    """`conf/evaluation/steering.yaml`."""

    concepts: Mapping[str, tuple[str, ...]]
    """Nouns, values of a factor, colours or coloured nouns ("blue car"); the concept prompts of
    each."""

    def faults(self) -> Iterator[str]:
        yield from super().faults()
        if not self.concepts:
            yield "evaluation.concepts is empty; name one with its concept prompts"

    @staticmethod
    def allows(strength: float) -> bool:
        """Below 0 steers away, above 0 towards."""
        return math.isfinite(strength) and strength != 0

    def by_direction(self) -> dict[str, list[float]]:
        """The strengths towards concepts and away from them, where there are any."""
        strengths = {
            TOWARDS: [strength for strength in self.strengths if strength > 0],
            AWAY: [strength for strength in self.strengths if strength < 0],
        }
        return {direction: values for direction, values in strengths.items() if values}


@dataclass(frozen=True)
class SteeringCase:
    """One caption to be steered by one concept, which it names or does not."""

    prompt: Prompt
    concept: str
    named: bool

    @property
    def direction(self) -> str:
        """Away from a concept that the caption names, towards one that it does not."""
        return AWAY if self.named else TOWARDS

    def wanted(self, strength: float) -> bool:
        """Whether this strength is asked of it."""
        return (strength < 0) == self.named


@dataclass(frozen=True, eq=False)
class SteeringOutcome:
    """What a strength made of a case; 0: nothing was edited.

    Attributes:
        shows: whether the annotator finds the concept.
        kept: whether every other object found without the edit is still found.
    """

    case: SteeringCase
    strength: float
    shows: bool
    kept: bool
    picture: np.ndarray

    @property
    def success(self) -> bool:
        """It shows what its caption does not name, or does not show what it names."""
        return self.shows != self.case.named


SteeringTest = Tested[str, SteeringOutcome]
Edits = Mapping[tuple[str, float], TextEdit]
"""By concept and strength."""


def steering_rows(study: Study, settings: SteeringSettings, _embedding: Embedding) -> list[Result]:
    """Success and kept objects, towards and away; trials.parquet has a row for each picture."""
    pictures = EditedPictures(study, [], conditionings=settings.conditionings, steps=settings.steps)
    known = _known(pictures)
    for concept in settings.concepts:
        shows(concept, detected=(), recognised={}, colours={}, **known)
    sae, _ = load_sae(study.sae)
    sae.to(pictures.device)
    edits = {
        (concept, strength): TextEdit(
            study.cell.block, sae, prompts, strength, settings.conditionings
        )
        for concept, prompts in settings.concepts.items()
        for strength in settings.strengths
    }

    def outcomes(split: Split, _strengths: Strengths[str]) -> list[SteeringOutcome]:
        return outcomes_of(
            pictures,
            cases_of(study.prompts, split, settings.concepts, settings.prompts(split)),
            edits,
            examples=settings.examples if split == "test" else 0,
        )

    test = tune_choose_test(
        outcomes,
        settings.by_direction(),
        method=lambda outcome: (
            outcome.case.direction if outcome.case.wanted(outcome.strength) else None
        ),
        score=_done_and_kept,
        test_all=True,
    )
    directory = study.evaluation(METRIC.name)
    _save_table(directory, test)
    save_examples(directory, list(_examples(test.tested, settings.examples)))
    return [row for direction in test.best for row in _rows(study, test, settings, direction)]


def cases_of(
    prompts: Sequence[Prompt], split: str, concepts: Iterable[str], count: int
) -> list[SteeringCase]:
    """For every concept the split's first captions that name it, and the first that do not, `count`
    of each.

    Raises:
        UserError: the split has no caption of one kind for some concept.
    """
    cases, faults = [], []
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
            cases += [SteeringCase(prompt, concept, named) for prompt in of_kind]
    together(faults)
    return cases


def outcomes_of(
    pictures: EditedPictures, cases: Sequence[SteeringCase], edits: Edits, *, examples: int
) -> list[SteeringOutcome]:
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
    before, known = dict(zip(plain, made, strict=False)), _known(pictures)

    def judged(
        case: SteeringCase, strength: float, after: tuple[np.ndarray, Any]
    ) -> SteeringOutcome:
        image, annotation = after
        old = set(before[case.prompt.image_id][1].masks) - {case.concept}
        shown = shows(
            case.concept,
            detected=annotation.masks,
            recognised=annotation.factors,
            colours=annotation.colours,
            **known,
        )
        return SteeringOutcome(case, strength, shown, old <= set(annotation.masks), image)

    return [
        *(judged(case, 0.0, before[case.prompt.image_id]) for case in cases),
        *(
            judged(case, strength, after)
            for (case, strength, _), after in zip(jobs, made[len(plain) :], strict=True)
        ),
    ]


def _known(pictures: EditedPictures) -> dict[str, Any]:
    """What the annotator can tell."""
    return {"nouns": pictures.annotator.labels, "factors": pictures.annotator.factors}


def kinds_of(cases: Iterable[SteeringCase]) -> list[list[SteeringCase]]:
    """Cases by concept, and whether it is named, in their order."""
    kinds: dict[tuple[str, bool], list[SteeringCase]] = {}
    for case in cases:
        kinds.setdefault((case.concept, case.named), []).append(case)
    return list(kinds.values())


def _save_table(directory: Path, test: SteeringTest) -> None:
    rows = [
        {
            "split": split,
            "concept": outcome.case.concept,
            "named": outcome.case.named,
            "strength": outcome.strength,
            "image_id": outcome.case.prompt.image_id,
            "prompt": outcome.case.prompt.text,
            "shows": outcome.shows,
            "kept": outcome.kept,
        }
        for split, outcomes in test.splits().items()
        for outcome in outcomes
    ]
    write_table(directory / "trials.parquet", pd.DataFrame(rows))


def _examples(tested: Sequence[SteeringOutcome], count: int) -> Iterator[Kept]:
    """The first captions of each kind at every strength, by rising strength."""
    for kind in kinds_of(outcome.case for outcome in tested if outcome.strength == 0):
        for case in kind[:count]:
            of_case = [outcome for outcome in tested if outcome.case == case]
            for outcome in sorted(of_case, key=lambda outcome: outcome.strength):
                yield Kept(
                    case=f"{'away from' if case.named else 'towards'} {case.concept}",
                    image_id=case.prompt.image_id,
                    prompt=case.prompt.text,
                    method=TEXT_EDIT if outcome.strength else UNEDITED,
                    strength=outcome.strength,
                    success=outcome.success,
                    picture=outcome.picture,
                )


def _done_and_kept(outcomes: Sequence[SteeringOutcome]) -> float:
    """The share that did what was asked and kept their objects."""
    return float(np.mean([o.success and o.kept for o in outcomes])) if outcomes else 0.0


def _rows(
    study: Study, test: SteeringTest, settings: SteeringSettings, direction: str
) -> Iterator[Result]:
    """Success at the chosen strength and the objects that it kept, one direction."""
    best, strengths = test.best[direction], (0.0, *test.scores[direction])

    def at(strength: float, of: str = direction) -> list[SteeringOutcome]:
        return [o for o in test.tested if o.case.direction == of and o.strength == strength]

    def share(field: str, outcomes: Sequence[SteeringOutcome]) -> Estimate:
        values = (getattr(outcome, field) for outcome in outcomes)
        return mean_over(study, settings, values, (o.case.prompt.image_id for o in outcomes))

    def of_concept(concept: str, strength: float) -> Estimate:
        return share("success", [o for o in at(strength) if o.case.concept == concept])

    details = {
        "strength": best,
        "conditionings": settings.conditionings,
        "tuning": {f"{s:g}": round(score, 4) for s, score in test.scores[direction].items()},
        "by_concept": {
            concept: {f"{s:g}": asdict(of_concept(concept, s)) for s in strengths}
            for concept in settings.concepts
        },
    }
    for field, metric in (
        ("success", f"steering_{direction}"),
        ("kept", f"steering_{direction}_kept"),
    ):
        baselines = {UNEDITED: share(field, at(0.0))}
        if metric == "steering_towards":  # what captions that name the concept reach by themselves
            baselines["named_in_caption_ceiling"] = share("shows", at(0.0, AWAY))
        yield Result(
            metric=metric,
            estimate=share(field, at(best)),
            higher_is_better=True,
            unit="share",
            cell=study.cell.coordinates(),
            baselines=baselines,
            details=details
            | {"by_strength": {f"{s:g}": asdict(share(field, at(s))) for s in strengths}},
        )


METRIC = Metric(
    name="steering",
    title="Does steering through the text encoder bring a concept into pictures, and take it out?",
    section="steering",
    claims={
        "steering_towards": "Steering the text towards a concept brings it into the picture",
        "steering_away": "Steering the text away from a concept takes it out",
    },
    settings=SteeringSettings,
    rows=steering_rows,
    needs="text",
    judges=True,
    faults=unguided,
)
