"""Steering through the text encoder, from its collection on: pictures, the strip, figures and
strips of a study, refusals.
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from omegaconf import DictConfig
from PIL import Image

from composing import compose
from diffusae.errors import UserError, together
from diffusae.evaluation.result import load_results
from diffusae.metrics.evaluate import evaluation_faults
from diffusae.metrics.text_steering import SteeringCase, cases_of
from diffusae.report.before_after import load_examples
from diffusae.stages.collect import collect
from diffusae.stages.evaluate import evaluate
from diffusae.stages.steer import steer
from diffusae.stages.train import train
from diffusae.steering.trials import in_order
from diffusae.study.study import Study

TEXT = [
    "collection=text",
    "debug=tiny",
    "model.steps=3",
    "prompts.counts={train:24,validation:8,dictionary:0,tune:24,test:60}",
]
PROMPT = "a flat drawing of a red fish"
STEER = ["intervention=text", "concept=neon", f"prompt={PROMPT}"]

Composed = Callable[..., DictConfig]


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> Composed:
    outputs = tmp_path_factory.mktemp("text")

    def compose_with(stage: str, *overrides: str) -> DictConfig:
        return compose(stage, overrides=["debug=tiny", f"paths.outputs={outputs}", *overrides])

    return compose_with


@pytest.fixture(scope="module")
def trained(composed: Composed) -> Composed:
    """A collection of two layers, and an autoencoder of one, by the very stages that a user
    runs.
    """
    collect(composed("collect", *TEXT))
    train(composed("train", *TEXT))
    return composed


def directory_of(composed: Composed, *overrides: str) -> Path:
    root = Path(composed("steer", *STEER, *overrides).paths.experiment) / "steer"
    before = set(root.glob("*"))
    assert steer(composed("steer", *STEER, "model.steps=3", *overrides))
    (made,) = set(root.glob("*")) - before
    return made


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture).astype(int)


def test_a_strip_has_both_signs_of_lambda_around_the_picture_as_it_is(trained):
    directory = directory_of(trained, "strengths=[-1,0.5]")
    assert directory.name == "text-neon-text-2-k4-a-flat-drawing-of-a-red-fish-0"
    assert {path.name for path in directory.iterdir() if not path.name.startswith(".")} == {
        "before.png", "strength-1.png", "strength+0.5.png", "strip.png", "run.json",
    }  # fmt: skip
    before, away, towards = (
        pixels(directory / f"{n}.png") for n in ("before", "strength-1", "strength+0.5")
    )
    assert before.shape == (64, 64, 3)
    for other in (away, towards):
        assert np.abs(other - before).max() > 0
    record = json.loads((directory / "run.json").read_text())
    assert record["determines"]["text"]["concept_prompts"] == [" ".join(["neon"] * 16)]
    assert not steer(trained("steer", *STEER, "model.steps=3", "strengths=[-1,0.5]"))


def test_one_strength_is_given_as_the_interventions_own(trained):
    directory = directory_of(trained, "intervention.strength=0.3")
    assert directory.name.startswith("text-neon-lambda0.3-text-2")
    assert (directory / "strength+0.3.png").is_file()


def test_pictures_stand_by_rising_strength():
    image = np.zeros((2, 2, 3), np.uint8)
    made = [(0.0, "before", image), (1.0, "b", image), (-1.0, "a", image)]
    assert [name for name, _ in in_order(made)] == ["a", "before", "b"]


def test_figures_and_strips_of_steering_are_evaluated(trained):
    options = [
        *TEXT,
        "evaluation=steering",
        "evaluation.steps=3",
        "evaluation.tune_prompts=1",
        "evaluation.test_prompts=2",
    ]
    cfg = trained(
        "evaluate",
        *options,
        "evaluation.strengths=[-1,0.5,1]",
        "~evaluation.concepts.mosaic",
        "~evaluation.concepts.watercolour",
        "~evaluation.concepts.fish",
        "evaluation.n_resamples=50",
    )
    assert evaluate(cfg)
    directory = Study(cfg).evaluation("steering")
    rows = {row.metric: row for row in load_results(directory / "results.json")}
    assert set(rows) == {
        "steering_towards", "steering_towards_kept", "steering_away", "steering_away_kept",
    }  # fmt: skip
    towards, away = rows["steering_towards"], rows["steering_away"]
    assert (towards.estimate.n, away.estimate.n) == (4, 4)  # two concepts, two captions
    assert set(towards.details["by_strength"]) == {"0", "0.5", "1"}
    assert set(away.details["by_concept"]) == {"neon", "night"}
    assert set(towards.baselines) == {"no_edit", "named_in_caption_ceiling"}
    trials = pd.read_parquet(directory / "trials.parquet")
    assert (trials["named"] == trials["prompt"].str.contains("|".join(["neon", "night"])))[
        trials["concept"].isin(["neon"]) & trials["prompt"].str.contains("neon")
    ].all()
    cases = load_examples(directory)
    assert [case.case for case in cases] == [
        "away from neon",
        "towards neon",
        "away from night",
        "towards night",
    ]
    assert [picture.strength for picture in cases[0].pictures] == [-1.0, 0.0, 0.5, 1.0]


def test_captions_are_dealt_out_by_whether_they_name_the_concept(composed):
    prompts = Study(composed("evaluate", *TEXT)).prompts
    cases = cases_of(prompts, "test", ["neon"], 2)
    assert [("neon" in case.prompt.text.split(), case.named) for case in cases] == [
        (True, True)
    ] * 2 + [(False, False)] * 2
    named, other = cases[0], cases[2]
    assert [named.wanted(-1), named.wanted(1), other.wanted(-1), other.wanted(1)] == [
        True,
        False,
        False,
        True,
    ]
    assert isinstance(named, SteeringCase)
    with pytest.raises(UserError, match="no caption of split 'test' names 'submarine'"):
        cases_of(prompts, "test", ["submarine"], 2)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["concept=submarine"], r"'submarine'; known: .*neon"),
        (["intervention.strength=0"], "strength=0 must be a finite number other than 0"),
        (["strengths=[]"], "finite numbers other than 0"),
        (
            ["model.guidance=1", "conditioning=cond", "grid.conditionings=[cond]"],
            "runs without classifier-free guidance",
        ),
        (["intervention.layer=mid"], "'mid' is no layer of a text encoder"),
        (["intervention.layer=text_9"], r"'text_9' does not exist; .*text_0 to text_3"),
        (["intervention.layer=text_1"], "a finished run of train is needed"),
        (["preserve_norm=true"], "preserve_norm=true is for updates"),
        (["with_text.concept=night"], "with_text is for other interventions"),
    ],
)
def test_what_cannot_be_steered_is_refused(trained, overrides, message):
    with pytest.raises(UserError, match=message):
        steer(trained("steer", *STEER, *overrides))


def test_a_concept_without_prompts_gets_some_from_the_command(trained):
    directory = directory_of(
        trained, "concept=glow", "+concept_prompts.glow=[neon neon neon]", "strengths=[1]"
    )
    assert (directory / "strength+1.png").is_file()


def test_a_cell_of_the_denoiser_is_not_evaluated(composed):
    study = Study(composed("evaluate", "evaluation=steering"))
    with pytest.raises(UserError, match="needs a text encoder's layer, and block mid is none"):
        together(evaluation_faults(study))
