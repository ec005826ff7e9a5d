"""A study of both streams of joint blocks: text tokens as positions of their own, and one site of a
block, from collecting to looking and steering.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from safetensors.torch import load_file

from composing import compose
from diffusae.activations.manifest import Manifest
from diffusae.activations.reader import load_updates, read_updates
from diffusae.backbone.load import load_pipeline
from diffusae.capture.generate import generate
from diffusae.errors import UserError
from diffusae.evaluation.result import load_results
from diffusae.stages.collect import collect
from diffusae.stages.evaluate import evaluate
from diffusae.stages.label import label
from diffusae.stages.look import look
from diffusae.stages.steer import steer
from diffusae.stages.train import train
from diffusae.study.study import Study
from tiny_families import FAMILIES
from tiny_pipeline import TOKENS

CAPTIONS = [f"{first} {second}" for first in ("a cat", "one dog") for second in ("sat", "ran", "i")]
JOINT = "transformer_blocks.1"
COUNTS = {"train": 2, "validation": 1, "dictionary": 1, "tune": 0, "test": 2}


@pytest.fixture(scope="module", params=["sd3", "flux"])
def family(request: pytest.FixtureRequest) -> str:
    return request.param


def composed(stage: str, family: str, folder: Path, *overrides: str) -> DictConfig:
    captions = folder.parent / "captions.txt"
    captions.write_text("\n".join(CAPTIONS))
    asked = [
        "name=both", "prompts=file", f"prompts.path={captions}",
        *(f"prompts.counts.{split}={count}" for split, count in COUNTS.items()),
        f"model.hookpoints.mid={JOINT}:mlp_out", f"+model.hookpoints.words={JOINT}:after@text",
        "grid.blocks=[mid,words]", "grid.timesteps=[1.0,0.5]", "timestep=early",
        "activations.group_size=2", "activations.batch_size=4", "trainer.steps=4", "sae.d_sae=32",
    ]  # fmt: skip
    return compose(stage, [*FAMILIES[family].overrides(folder), *asked, *overrides])


@pytest.fixture(scope="module")
def collected(family: str, folder: Path) -> Study:
    cfg = composed("collect", family, folder)
    assert collect(cfg)
    return Study(cfg)


def places(family: str, text: str) -> dict[int, str]:
    """The tokens of a text by hand: CLIP's with begin and end, then T5's after CLIP's 77 (here
    fewer) tokens. "cat" is one token, other words are letters."""
    clip, t5 = ["<|startoftext|>"], []
    for word in text.split():
        whole = word == "cat"
        clip += ["cat</w>"] if whole else [*word[:-1], f"{word[-1]}</w>"]
        t5 += ["▁cat"] if whole else ["▁", *word]
    clip, t5 = [*clip, "<|endoftext|>"], [*t5, "</s>"]
    if family == "flux":
        return dict(enumerate(t5))
    return dict(enumerate(clip)) | dict(enumerate(t5, start=TOKENS))


def test_samples_hold_the_prompts_own_tokens_and_every_position_of_the_picture(
    collected: Study, family: str
) -> None:
    root, manifest = collected.activations, Manifest.load(collected.activations)
    assert manifest.ragged
    asked = FAMILIES[family].asked
    most = asked["text_tokens"] + (TOKENS if family == "sd3" else 0)
    for branch in ("cond", "uncond"):
        words = manifest.stream("words", 1.0, branch)
        assert (words.hookpoint, words.grid) == (f"{JOINT}:after@text", (1, most))
        for sample in read_updates(root, manifest, words, "test"):
            own = places(family, sample.meta["prompt"] if branch == "cond" else "")
            assert sample.meta["positions"] == list(own)
            assert sample.meta["text_tokens"][branch] == {str(n): own[n] for n in own}
            assert sample.updates.shape == (len(own), words.d_in)
        picture = manifest.stream("mid", 1.0, branch)
        assert picture.hookpoint == f"{JOINT}:mlp_out"
        ids, updates = load_updates(root, manifest, picture, "test")
        assert updates.shape == (2, 16, picture.d_in) and len(ids) == 2


def test_stored_vectors_are_those_of_the_same_generation(
    collected: Study, family: str, folder: Path
) -> None:
    manifest = Manifest.load(collected.activations)
    stream = manifest.stream("words", 0.5, "cond")
    (sample, *_) = read_updates(collected.activations, manifest, stream, "test")
    pipe = load_pipeline(folder, dtype=torch.float32, device="cpu", scheduler="keep")
    model = collected.cfg.model
    made = generate(
        pipe, [sample.meta["prompt"]], [sample.meta["seed"]], **FAMILIES[family].asked,
        steps=model.steps, height=model.height, width=model.width,
        hookpoints={"words": stream.hookpoint}, timesteps=[stream.timestep],
    )  # fmt: skip
    expected = made.updates["words", stream.timestep, "cond"][0, sample.meta["positions"]]
    torch.testing.assert_close(
        torch.from_numpy(np.array(sample.updates)).float(), expected, rtol=2e-3, atol=2e-3
    )


@pytest.fixture(scope="module")
def trained(collected: Study, family: str, folder: Path) -> Study:
    cfg = composed("train", family, folder, "block.name=words")
    assert train(cfg)
    return Study(cfg)


def at_words(stage: str, family: str, folder: Path, *more: str) -> Any:
    return composed(stage, family, folder, "block.name=words", *more)


def test_an_autoencoder_of_text_tokens_is_trained_and_evaluated(
    trained: Study, family: str, folder: Path
) -> None:
    evaluate(at_words("evaluate", family, folder, "evaluation=reconstruction"))
    rows = load_results(trained.evaluation("reconstruction") / "results.json")
    assert {row.cell["block"] for row in rows} == {"words"} and rows[0].value is not None


@pytest.mark.parametrize(
    ("stage", "more", "message"),
    [
        ("evaluate", ["evaluation=composition"], "composition needs the picture's tokens: .*@text"),
        (
            "label",
            ["annotator.models=null"],
            "labels come of masks of pictures: block words reads the text's tokens",
        ),
        (
            "steer",
            ["prompt=a cat", "latents=[3]", "intervention=spatial", "intervention.region=top"],
            "no place in the picture.*global, amplify, ablate or clamp",
        ),
        ("steer", ["prompt=a cat", "concept=cat", "intervention=ablate"], "or steer latents="),
    ],
)
def test_what_needs_a_place_in_the_picture_is_refused_of_a_text_cell(
    trained: Study, family: str, folder: Path, stage: str, more: list[str], message: str
) -> None:
    run = {"evaluate": evaluate, "label": label, "steer": steer}[stage]
    with pytest.raises(UserError, match=message):
        run(at_words(stage, family, folder, *more))


def test_latents_of_text_tokens_are_steered_everywhere(
    trained: Study, family: str, folder: Path
) -> None:
    asked = ["prompt=a cat", "latents=[3,4]", "intervention=global", "strengths=[8.0]"]
    assert steer(at_words("steer", family, folder, *asked))
    (directory,) = (trained.directory / "steer").iterdir()
    before, after = ((directory / f"{name}.png").read_bytes() for name in ("before", "strength-8"))
    assert before != after


def test_a_words_latents_are_shown_over_the_tokens_of_the_prompt(
    trained: Study, family: str, folder: Path
) -> None:
    assert look(at_words("look", family, folder, "prompt=a cat ran", "concept=cat"))
    (directory,) = (trained.directory / "look").iterdir()
    (cell,) = json.loads((directory / "look.json").read_text())["cells"]
    assert cell["tokens"] == list(places(family, "a cat ran").values())
    assert cell["block"] == "words" and len(cell["latents"]) == 3
    values = load_file(directory / "maps.safetensors")[cell["cell"]]
    assert values.shape == (3, len(cell["tokens"]))
    assert (directory / "look.png").stat().st_size > 1000


def test_a_word_that_the_prompt_does_not_have_is_refused(
    trained: Study, family: str, folder: Path
) -> None:
    with pytest.raises(UserError, match="the prompt does not name it"):
        look(at_words("look", family, folder, "prompt=a cat", "concept=house"))
