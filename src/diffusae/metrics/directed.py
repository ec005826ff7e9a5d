"""What the metrics share whose edits have directions: settings, outcomes, means over pictures, and
what explains their figures.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from diffusae.errors import unknown
from diffusae.evaluation.metric_settings import Count, InterventionSettings
from diffusae.evaluation.proportion import share
from diffusae.evaluation.result import Estimate, bootstrap_mean
from diffusae.interventions.windows import OWN_T, window_at, window_name
from diffusae.prompts.prompt_set import Prompt
from diffusae.report.before_after import Kept
from diffusae.steering.edited import EditedPictures, Place
from diffusae.steering.methods import METHODS, OWN, Form, draws_met
from diffusae.steering.protocol import Split
from diffusae.study.study import Study

VERSION = 2
"""Of the rows: since 2, the figure is of the paper's own method."""
UNEDITED = "no_edit"
"""The method of a picture without an edit."""
SPLITS: tuple[Split, ...] = ("tune", "test")


class Case(Protocol):
    """What is to happen to the picture of a prompt."""

    @property
    def prompt(self) -> Prompt: ...


class Judgement(Protocol):
    """Whether it happened; a dataclass whose fields are columns of the table of cases."""

    @property
    def success(self) -> bool: ...


C = TypeVar("C", bound=Case)
J = TypeVar("J", bound=Judgement)


@dataclass(frozen=True, eq=False)
class Outcome(Generic[C, J]):
    """What one method made of one case at one strength, in one draw of its direction."""

    method: str
    draw: int
    strength: float
    case: C
    judged: J
    picture: np.ndarray

    def kept(self, case: str) -> Kept:
        """The picture as an example of a case that is named so."""
        prompt, success = self.case.prompt, self.judged.success
        whose = case, prompt.image_id, prompt.text
        return Kept(*whose, self.method, self.strength, success, self.picture)


def first_draws(outcomes: Sequence[Outcome[C, J]]) -> list[Outcome[C, J]]:
    """Of the outcomes of a case, the first one of every method."""
    first: dict[str, Outcome[C, J]] = {}
    for outcome in outcomes:
        first.setdefault(outcome.method, outcome)
    return list(first.values())


@dataclass(frozen=True, kw_only=True)
class DirectedSettings(InterventionSettings):
    """Settings of edits at the cell's own moment. A subclass says the type of `forms`."""

    methods: dict[str, str]
    """{method: the form of its edit}."""
    n_latents: Count
    """Latents that make a direction of `chosen_latents`."""
    random_draws: Count
    """Draws of `random_latent`."""
    paper_beta: float | None = None
    """The paper's strength, which strengths may refer to."""

    @property
    def edits(self) -> Mapping[str, Form]:
        """The forms by name."""
        return self.forms  # type: ignore[attr-defined]

    @property
    def tried(self) -> list[str]:
        """The methods, in the order of the tables."""
        return [method for method in METHODS if method in self.methods]

    def form(self, method: str) -> Any:
        """The form of a method's edit."""
        return self.edits[self.methods[method]]

    def strengths_of(self, method: str) -> Sequence[float]:
        """The strengths to try of a method."""
        own = self.form(method).strengths
        return self.strengths if own is None else own

    def draws(self, method: str) -> int:
        """How many directions a method has."""
        return self.random_draws if method == "random_latent" else 1

    def draws_met(
        self, method: str, split: Split, *, caption: int, region: int = 0, regions: int = 1
    ) -> Sequence[int]:
        """The draws of a method that meet a case; a single one meets all."""
        if (draws := self.draws(method)) == 1:
            return [0]
        return draws_met(split, caption=caption, region=region, regions=regions, draws=draws)

    def faults(self) -> Iterator[str]:
        yield from super().faults()
        yield from (
            str(unknown("method in evaluation.methods:", name, METHODS))
            for name in self.methods
            if name not in METHODS
        )
        if OWN not in self.methods:
            yield f"evaluation.methods lacks {OWN}, whose success is the figure; give its form"
        for method, name in self.methods.items():
            if name not in self.edits:
                what = f"form in evaluation.methods.{method}:"
                yield str(unknown(what, name, self.edits))
        for name, form in self.edits.items():
            if form.strengths is not None and not (form.strengths and min(form.strengths) > 0):
                yield (
                    f"evaluation.forms.{name}.strengths={list(form.strengths)} must hold numbers"
                    " above 0, or be null; give some"
                )

    def pictures(self, study: Study, blocks: Iterable[str]) -> EditedPictures:
        """Makes pictures, edited in these blocks."""
        places = [Place(block, window_at(study.cell.t)) for block in blocks]
        conditionings, steps = self.conditionings, self.steps
        return EditedPictures(study, places, conditionings=conditionings, steps=steps)

    def explained(
        self, study: Study, best: Mapping[str, float], scores: Mapping[str, Mapping[float, float]]
    ) -> dict[str, Any]:
        """What was edited, and how the strength of every method was chosen by its scores."""
        window = window_at(study.cell.t)
        return {
            "window": list(window),
            "sae_t_of_the_paper": OWN_T[window_name(window)],
            "conditionings": self.conditionings,
            "n_latents": self.n_latents,
            "methods": dict(self.methods),
            "forms": {name: form.to_json() for name, form in self.edits.items()},
            "strength": best[OWN],
            "strengths": dict(best),
            "tuning": {
                method: {str(strength): round(score, 4) for strength, score in tried.items()}
                for method, tried in scores.items()
            },
        }

    def columns(
        self, study: Study, outcome: Outcome[Any, Any], *, split: str, edit: str, region: str
    ) -> dict[str, Any]:
        """The columns of an edited picture that all interventions share, and its judgement."""
        prompt = outcome.case.prompt
        return {
            "split": split,
            "image_id": prompt.image_id,
            "prompt": prompt.text,
            "noise_seed": prompt.seed,
            "window": window_name(window_at(study.cell.t)),
            "sae_t": float(study.cell.t),
            "edit": edit,
            "region": region,
            "method": outcome.method,
            "form": self.methods.get(outcome.method, ""),
            "draw": outcome.draw,
            "strength": outcome.strength,
            "success": outcome.judged.success,
            **vars(outcome.judged),
        }


def spread(values: Sequence[float], draws: Sequence[int]) -> dict[str, float]:
    """How the mean of each draw spreads: n (draws), mean, low and high (the 2.5 % and 97.5 %
    points), max. Empty without values.
    """
    if not len(values):
        return {}
    by_draw: dict[int, list[float]] = {}
    for draw, value in zip(draws, values, strict=True):
        by_draw.setdefault(draw, []).append(float(value))
    means = [float(np.mean(of_draw)) for of_draw in by_draw.values()]
    low, high = np.quantile(means, (0.025, 0.975)).tolist()
    spread = {"mean": float(np.mean(means)), "low": low, "high": high, "max": max(means)}
    return {"n": len(means), **{name: round(value, 4) for name, value in spread.items()}}


def mean_over(
    study: Study, settings: InterventionSettings, values: Iterable[Any], image_ids: Iterable[str]
) -> Estimate:
    """The mean of numbers, or the share of truths, with its 95 % interval; values of a picture are
    resampled together.
    """
    values, groups = list(values), list(image_ids)
    if all(isinstance(value, bool | np.bool_) for value in values):
        return share(values, groups)
    return bootstrap_mean(
        [float(value) for value in values],
        groups=groups,
        n_resamples=settings.n_resamples,
        seed=study.seed,
    )
