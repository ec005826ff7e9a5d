"""A study that trains while its training pictures are made, and the same with stored pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import DictConfig

from composing import compose
from diffusae.stages.collect import collect
from diffusae.stages.train_grid import train_grid

# mid has 64 positions, down 256. An epoch of mid has 7 batches in 2 chunks, of down 28 in 7 chunks.
TINY = [
    "debug=tiny",
    "grid.timesteps=[1.0]",
    "grid.blocks=[mid,down]",
    "grid.conditionings=[cond]",
    "grid.k=[2,4]",
    "model.steps=2",
    "model.batch_size=2",
    "prompts.counts={train: 7, validation: 1, dictionary: 1, tune: 1, test: 1}",
    "activations.group_size=3",
    "activations.buffer_vectors=300",
    "sae.ema=0.5",
    "sae.selection_precision=float32",
    "trainer.accelerator=cpu",
    "+steps={mid: 9, down: 30}",
    'trainer.steps="${steps.${block.name}}"',
]
UNSTORED = "activations.store_training=false"
CELLS = [f"{block}-t1.00-cond-k{k}" for block in ("mid", "down") for k in (2, 4)]


def composed(directory: Path, *overrides: str, command: str) -> DictConfig:
    return compose(command, [*TINY, f"paths.outputs={directory}", "name=study", *overrides])


def files(directory: Path) -> dict[str, bytes]:
    """What the trainings wrote, but for their records."""
    names = ("sae.safetensors", "cfg.json", "metrics.jsonl")
    sae = directory / "study" / "sae"
    return {f"{cell}/{name}": (sae / cell / name).read_bytes() for cell in CELLS for name in names}


@pytest.fixture(scope="session")
def stored(tmp_path_factory) -> Path:
    """The same study with all pictures stored, trained block by block: their steps differ."""
    directory = tmp_path_factory.mktemp("stored")
    collect(composed(directory, command="collect"))
    for block in ("mid", "down"):
        train_grid(
            composed(directory, f"grid.blocks=[{block}]", f"block={block}", command="train_grid")
        )
    return directory


@pytest.fixture(scope="session")
def collected(tmp_path_factory) -> Path:
    """The splits that are not trained on."""
    directory = tmp_path_factory.mktemp("unstored")
    assert collect(composed(directory, UNSTORED, command="collect"))
    return directory


def unstored_in(collected: Path) -> list[str]:
    return [UNSTORED, f"paths.activations={collected}/study/activations"]
