"""Given pictures and texts collected from a small random pipeline of every family, and an
autoencoder trained on each.
"""

from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from composing import compose
from diffusae.activations.manifest import Manifest
from diffusae.activations.reader import load_updates, read_updates
from diffusae.stages.collect import collect
from diffusae.stages.train import train
from diffusae.study.study import Study
from tiny_families import FAMILIES, T5_TOKENS
from tiny_pipeline import TOKENS

LAST = {"sd": "text_1", "sdxl": "text2_1", "sd3": "text3_1", "flux": "text2_1", "pixart": "text_1"}
"""The last encoder's last layer."""


def composed(stage: str, family: str, folder: Path, *overrides: str) -> DictConfig:
    few = ["trainer.steps=4", "sae.d_sae=32"]
    few += ["activations.batch_size=8", "activations.group_size=4"]
    return compose(stage, [*FAMILIES[family].overrides(folder), *few, *overrides])


def test_given_pictures_of_every_family_are_collected_and_trained_on(
    family: str, folder: Path
) -> None:
    asked = [
        "collection=pictures_world",
        "name=given",
        "grid.timesteps=[1.0,0.0]",
        "grid.blocks=[mid]",
        "timestep=early",
        "collection.counts={train: 4, validation: 2, dictionary: 0, tune: 0, test: 2}",
    ]
    assert collect(composed("collect", family, folder, *asked))
    cfg = composed("train", family, folder, *asked)
    manifest, (_, grid, d_in) = (
        Manifest.load(Study(cfg).activations),
        FAMILIES[family].blocks["mid"],
    )
    first, last = (manifest.stream("mid", t, "uncond") for t in (1.0, 0.0))
    assert (first.grid, first.d_in) == (grid, d_in) and first.timestep > last.timestep
    noise, clean = (
        load_updates(Study(cfg).activations, manifest, stream, "train")[1]
        for stream in (first, last)
    )
    assert noise.shape == (4, grid[0] * grid[1], d_in)
    assert np.abs(noise.astype(float) - clean).max() > 1e-3
    assert train(cfg)


def test_texts_of_every_family_are_collected_and_trained_on(family: str, folder: Path) -> None:
    layer = LAST[family]
    asked = [
        "collection=text",
        "name=words",
        f"grid.blocks=[text_0,{layer}]",
        f"block.name={layer}",
        "prompts.counts={train: 6, validation: 2, dictionary: 0, tune: 0, test: 0}",
    ]
    assert collect(composed("collect", family, folder, *asked))
    cfg = composed("train", family, folder, *asked)
    manifest = Manifest.load(Study(cfg).activations)
    stream = manifest.stream(layer, 1.0, "cond")
    assert stream.grid == (1, TOKENS if family in ("sd", "sdxl") else T5_TOKENS)
    for sample in read_updates(Study(cfg).activations, manifest, stream, "train"):
        assert len(sample.updates) == len(sample.meta["positions"]) <= stream.positions
    assert train(cfg)
