"""All stages on a small random pipeline of every family, loaded from its folder: the same commands,
another model=.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import DictConfig
from PIL import Image

from composing import compose
from diffusae.activations.manifest import Manifest
from diffusae.activations.reader import load_updates
from diffusae.backbone.describe import describe
from diffusae.backbone.hookpoints import denoiser_of
from diffusae.concepts.dictionary import ConceptDictionary
from diffusae.errors import UserError
from diffusae.evaluation.result import load_results
from diffusae.prompts.prompt_set import Prompt
from diffusae.stages.collect import collect
from diffusae.stages.evaluate import evaluate
from diffusae.stages.label import label
from diffusae.stages.steer import steer
from diffusae.stages.train import train
from diffusae.steering.edited import EditedPictures, Place, Trial
from diffusae.study.study import Study
from tiny_families import FAMILIES, PIXELS

# The miniature's annotator looks at noise here: whatever it believes to see is labelled, however
# small and far off.
LENIENT = [
    "annotator.models=null",
    "annotator.minimum_pixels=1",
    "dictionary.iou_threshold=0.001",
    "dictionary.activation_threshold=0.0",
]


def composed(stage: str, family: str, folder: Path, *overrides: str) -> DictConfig:
    tiny = FAMILIES[family]
    # A place in the list of blocks is as good as a path.
    place = list(describe(folder).hookpoints).index(str(tiny.hookpoints["mid"]))
    grid = ["grid.timesteps=[1.0,0.0]", "grid.blocks=[mid]", "block=mid", "timestep=early"]
    base = [*tiny.overrides(folder), f"model.hookpoints.mid={place}", *grid, *LENIENT]
    return compose(stage, [*base, *overrides])


FAST = ("sd3", "flux")  # joint blocks and three text encoders; guidance in two passes
WHOLE = [
    pytest.param(name, marks=[] if name in FAST else pytest.mark.slow)
    for name, family in FAMILIES.items()
    if family.has_uncond and not family.needs
]
"""Of prompts alone, with both branches of guidance. The miniature's whole study is one of `sd`."""


@pytest.mark.parametrize("family", WHOLE, indirect=True)
def test_collect_train_label_evaluate_and_steer(family: str, folder: Path) -> None:
    def study(stage: str, *overrides: str) -> Any:
        return composed(stage, family, folder, *overrides)

    assert collect(study("collect"))
    cfg = study("train")
    manifest, (_, grid, d_in) = (
        Manifest.load(Study(cfg).activations),
        FAMILIES[family].blocks["mid"],
    )
    for conditioning in ("cond", "uncond"):
        stream = manifest.stream("mid", 1.0, conditioning)
        assert (stream.grid, stream.d_in) == (grid, d_in)
    _, cond = load_updates(
        Study(cfg).activations, manifest, manifest.stream("mid", 1.0, "cond"), "test"
    )
    _, uncond = load_updates(
        Study(cfg).activations, manifest, manifest.stream("mid", 1.0, "uncond"), "test"
    )
    assert cond.shape == (6, grid[0] * grid[1], d_in)
    assert np.abs(cond.astype(float) - uncond).max() > 1e-3
    assert train(cfg)
    assert label(study("label"))
    dictionary = ConceptDictionary.load(Study(cfg).concepts)
    nouns = sorted(set(dictionary.table["label"]))
    assert nouns
    few = {
        "faithfulness": ["evaluation.pictures=2", "evaluation.denoising_pictures=2"],
        "spatial": [
            "evaluation.tune_prompts=1",
            "evaluation.test_prompts=1",
            "evaluation.strengths=[4.0]",
            "evaluation.regions=[top_left]",
            "evaluation.steps=3",
        ],
    }
    for metric in ("reconstruction", "composition", "faithfulness", "spatial"):
        evaluate(study("evaluate", f"evaluation={metric}", *few.get(metric, [])))
        rows = load_results(Study(cfg).evaluation(metric) / "results.json")
        assert rows and all(row.cell["model"] == "custom" for row in rows)
        if metric == "composition":
            attends = FAMILIES[family].attention is not None
            assert ("cross_attention" in rows[0].baselines) == attends
        if metric == "faithfulness":
            control = {row.metric: row for row in rows}["picture_ssim"].baselines["with_error"]
            assert control.value == pytest.approx(1, abs=1e-3)
    asked = [f"concept={nouns[0]}", "prompt=a red fish", "strengths=[4.0]", "conditionings=[cond]"]
    assert steer(study("steer", *asked))
    (directory,) = (Study(cfg).directory / "steer").iterdir()
    before, after = (
        np.asarray(Image.open(directory / f"{name}.png")) for name in ("before", "strength-4")
    )
    assert before.shape == (PIXELS, PIXELS, 3)
    assert not np.array_equal(before, after)


@pytest.mark.parametrize("conditionings", [["cond", "uncond"], ["cond"]])
def test_what_lies_before_an_edit_is_made_once_and_replayed_in_every_batch(
    family: str, folder: Path, conditionings: list[str]
) -> None:
    """With guidance (one batch, two passes) and without; the last two of four steps are edited."""
    options = [
        "model.steps=4",
        f"grid.conditionings=[{','.join(conditionings)}]",
        "conditioning=cond",
    ]
    if len(conditionings) == 1:
        unguided = FAMILIES[family].unguided
        options += [f"model.{name}={value or 'null'}" for name, value in unguided.items()]
    study = Study(composed("evaluate", family, folder, *options))
    study.check()
    prompts = [
        Prompt(f"p{n}", text, n, "test") for n, text in enumerate(("a cat", "dogs", "a red fish"))
    ]
    edited = [
        Trial(prompt, (lambda updates, _: 10 * updates,)) for prompt in (prompts[2], prompts[0])
    ]

    def made(pictures: EditedPictures, trials: list[Trial]) -> tuple[int, np.ndarray]:
        """How often a block ran, and the pictures."""
        runs: list[int] = []
        block = denoiser_of(pictures.pipe).get_submodule(str(FAMILIES[family].hookpoints["down"]))
        handle = block.register_forward_hook(lambda *_: runs.append(1))
        images = [image for image, _ in pictures.make(trials, what="pictures")]
        handle.remove()
        return len(runs), np.stack(images).astype(int)

    def fresh() -> EditedPictures:
        return EditedPictures(study, [Place("mid", (0.4, 0.0))], conditionings=conditionings)

    passes = len(FAMILIES[family].passes) if len(conditionings) == 2 else 1
    (whole, alone), pictures = made(fresh(), edited), fresh()
    plain, unedited = made(pictures, [Trial(prompt) for prompt in prompts])
    rest, replayed = made(pictures, edited)
    assert (whole, plain, rest) == (4 * passes, 4 * passes, 2 * passes)
    assert np.abs(replayed - alone).max() <= 1
    assert np.abs(replayed - unedited[[2, 0]]).max() > 1


def test_what_a_configuration_says_wrongly_of_its_model_is_told_together(
    family: str, folder: Path
) -> None:
    wrong = ["model.hookpoints.mid=99", "model.latent_scale=4", "model.height=60"]
    with pytest.raises(UserError, match="3 faults") as raised:
        collect(composed("collect", family, folder, "name=wrong", *wrong))
    for part in (
        "hookpoint 99 does not exist",
        "latent_scale=4, but the model's is 8",
        "model.height=60",
    ):
        assert part in str(raised.value)
