"""Tune, choose, test: what is tried on which split, what is chosen, and what is never seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from composing import compose
from diffusae.metrics import directed, global_intervention, spatial_intervention, text_steering
from diffusae.metrics.evaluate import metric_of
from diffusae.steering import protocol
from diffusae.steering.edited import Trial
from diffusae.steering.global_directions import BlockDirections
from diffusae.steering.methods import METHODS
from diffusae.steering.protocol import best_strength, tune_choose_test
from diffusae.study.study import Study, build

WITHOUT = [f"~evaluation.concepts.{name}" for name in ("neon", "mosaic", "watercolour", "night")]
"""evaluation=steering of the fish alone."""


@dataclass(frozen=True)
class Try:
    method: str
    strength: float
    success: float


def tried(split: str, strengths: Any) -> list[Try]:
    """`good` succeeds at 2 alone, `bad` never; on the test split all that is tried succeeds."""
    return [
        Try(method, s, float(split == "test" or (method == "good" and s == 2.0)))
        for method, of_method in strengths.items()
        for s in of_method
    ]


def carry_out(**options: Any) -> protocol.Tested[str, Try]:
    return tune_choose_test(
        tried,
        {"good": [1.0, 2.0, 3.0], "bad": [3.0, 1.0]},
        method=lambda outcome: outcome.method,
        score=lambda outcomes: sum(o.success for o in outcomes) / len(outcomes),
        **options,
    )


def test_every_method_gets_the_strength_that_is_best_on_the_tuning_split():
    tested = carry_out()
    assert tested.scores == {"good": {1.0: 0.0, 2.0: 1.0, 3.0: 0.0}, "bad": {3.0: 0.0, 1.0: 0.0}}
    assert tested.best == {"good": 2.0, "bad": 1.0}  # of equal ones the weakest
    assert len(tested.tuned) == 5
    assert [(o.method, o.strength) for o in tested.tested] == [("good", 2.0), ("bad", 1.0)]
    assert list(tested.splits()) == ["tune", "test"]


def test_all_strengths_can_be_tested_and_change_no_choice():
    tested = carry_out(test_all=True)
    assert len(tested.tested) == 5
    assert tested.best == carry_out().best


def test_of_two_signs_the_smaller_edit_is_the_weaker():
    assert best_strength({-1.0: 0.5, -0.5: 0.5, -2.0: 0.4}) == -0.5


class Sealed:
    """An annotation that may be looked at once the choice is made."""

    def __init__(self, recorder: Recorder, **values: Any) -> None:
        self.__dict__["_sealed"] = (recorder, values)

    def __getattr__(self, name: str) -> Any:
        recorder, values = self.__dict__["_sealed"]
        assert recorder.chosen, "tuning looked at a test picture"
        return values[name]


class Recorder:
    """Makes grey pictures, and fails where an edit of a test prompt is asked for before the choice
    is made.
    """

    def __init__(self, annotator: Any) -> None:
        self.annotator, self.device, self.chosen = annotator, torch.device("cpu"), False
        self.edited: list[str] = []

    def make(self, trials: Sequence[Trial], *, what: str) -> list[tuple[np.ndarray, Any]]:
        made = []
        for trial in trials:
            split, edited = trial.prompt.split, bool(trial.changes or trial.text)
            assert self.chosen or split != "test" or not edited, "tuning edited a test prompt"
            self.edited += [split] if edited else []
            scores = {name: [1.0] + [0.0] * 20 for name in self.annotator.factors}
            kind: Any = SimpleNamespace if split == "tune" else partial(Sealed, self)
            note = kind(masks={}, factors={}, colours={}, scores=scores)
            made.append((np.full((64, 64, 3), 128, np.uint8), note))
        return made


def study_of(tmp_path: Any, metric: str, *overrides: str) -> Study:
    few = [f"evaluation.{name}_prompts=1" for name in ("tune", "test")]
    cfg = compose(
        "evaluate",
        ["debug=tiny", f"paths.outputs={tmp_path}", f"evaluation={metric}", *few, *overrides],
    )
    return Study(cfg)


@pytest.mark.parametrize(
    ("metric", "module", "overrides"),
    [
        ("spatial", spatial_intervention, ["evaluation.regions=[top_left]"]),
        ("global", global_intervention, ["evaluation.factors=[tone]"]),
        ("steering", text_steering, ["block.name=text_2", *WITHOUT]),
    ],
)
def test_tuning_never_sees_the_test_split(metric, module, overrides, tmp_path, monkeypatch):
    counts = "prompts.counts={train: 24, validation: 0, dictionary: 0, tune: 40, test: 40}"
    study = study_of(tmp_path, metric, counts, *overrides)
    study.evaluation(metric).mkdir(parents=True)
    annotator = build(study.cfg.annotator, "annotator")
    recorder = Recorder(annotator)
    direction: Any = torch.ones(3)
    sae: Any = SimpleNamespace(to=lambda device: None)
    for maker in (module, directed):
        monkeypatch.setattr(maker, "EditedPictures", lambda *_, **__: recorder, raising=False)

    def choose(scores):
        recorder.chosen = True
        return best_strength(scores)

    monkeypatch.setattr(protocol, "best_strength", choose)
    if metric == "global":
        directions = {
            (method, "tone", value): [direction] * 10
            for method in METHODS
            for value in annotator.factors["tone"]
        }
        monkeypatch.setattr(module, "factors_shown", lambda *_: {})
        monkeypatch.setattr(
            module, "block_directions", lambda *_, **__: BlockDirections(sae, directions)
        )
        monkeypatch.setattr(recorder.annotator, "features", None, raising=False)
    else:
        monkeypatch.setattr(module, "load_sae", lambda _: (sae, None))
    if metric == "spatial":
        monkeypatch.setattr(
            module,
            "directions_of",
            lambda _study, _sae, nouns, **_: {
                method: dict.fromkeys(nouns, [direction] * 10) for method in METHODS
            },
        )
    metric_of(study).rows(study, metric_of(study).settings.of(study.cfg), pytest.fail)
    assert recorder.chosen
    assert set(recorder.edited) == {"tune", "test"}
    assert recorder.edited == sorted(recorder.edited, reverse=True)  # tune, then test
