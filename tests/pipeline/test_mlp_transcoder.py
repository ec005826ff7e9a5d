"""A transcoder of an MLP: `sae.target=mlp_out` at the same module and stream."""

from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import DictConfig

from composing import compose
from diffusae.activations.manifest import Manifest
from diffusae.activations.reader import load_updates
from diffusae.backbone.settings import ModelSettings
from diffusae.evaluation.result import load_results
from diffusae.sae.storage import load_sae
from diffusae.stages.annotate import annotate
from diffusae.stages.collect import collect
from diffusae.stages.evaluate import evaluate
from diffusae.stages.train import train
from diffusae.study.model import load_model
from diffusae.study.study import Study
from tiny_families import FAMILIES

MLP = [
    "+model.hookpoints.early=transformer_blocks.0:mlp_in",
    "+model.hookpoints.early_out=transformer_blocks.0:mlp_out",
    "grid.timesteps=[0.5]",
    "grid.blocks=[early]",
    "grid.conditionings=[cond]",
    "block.name=early",
    "timestep=middle",
    "sae.target=mlp_out",
    "model.batch_size=2",
    "prompts.counts={train: 4, validation: 2, dictionary: 2, tune: 1, test: 2}",
    "activations.group_size=2",
    "trainer.accelerator=cpu",
    "annotator.models=null",
]


@pytest.fixture(scope="module")
def family() -> str:
    return "sd3"


def composed(stage: str, folder: Path, *overrides: str) -> DictConfig:
    return compose(stage, [*FAMILIES["sd3"].overrides(folder), *MLP, *overrides])


def test_input_and_output_of_the_mlp_are_paired_and_the_transcoder_takes_its_place(
    family: str, folder: Path
) -> None:
    assert collect(composed("collect", folder))
    cfg = composed("train", folder)
    assert train(cfg)
    study = Study(cfg)
    manifest = Manifest.load(study.activations)
    x, y = (
        torch.from_numpy(
            load_updates(study.activations, manifest, manifest.stream(block, 0.5, "cond"), "test")[
                1
            ].astype(np.float32)
        )
        for block in ("early", "early_out")
    )
    block = load_model(ModelSettings.of(cfg)).transformer.transformer_blocks[0]
    with torch.no_grad():  # what is stored as the target is what the MLP makes of what is stored
        torch.testing.assert_close(block.ff(x), y, rtol=2e-2, atol=2e-3)
    _, metadata = load_sae(study.sae)
    assert metadata["hookpoint"] == "transformer_blocks.0:mlp_in"
    assert metadata["target"]["hookpoint"] == "transformer_blocks.0:mlp_out"
    annotate(composed("annotate", folder))
    few = ["evaluation.pictures=2", "evaluation.denoising_pictures=2", "evaluation.n_halves=2"]
    evaluate(composed("evaluate", folder, "evaluation=faithfulness", *few))
    rows = {r.metric: r for r in load_results(study.evaluation("faithfulness") / "results.json")}
    changed = rows["picture_mse"]
    assert changed.baselines["with_error"].value == pytest.approx(0, abs=1e-5)
    assert (changed.value or 0) > (changed.baselines["with_error"].value or 0)
