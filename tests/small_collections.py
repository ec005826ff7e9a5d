"""Small collections: streams by their shape, and random updates in groups."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffusae.activations.datamodule import ActivationDataModule
from diffusae.activations.schema import CollectedSample, Stream
from diffusae.activations.writer import ActivationWriter
from diffusae.files import sha256_of


def stream_of(grid: tuple[int, int], d_in: int, **others: Any) -> Stream:
    """A stream of this shape. What is not named of the others has some value."""
    some = {"block": "mid", "t": 0.5, "conditioning": "cond", "step_index": 2, "timestep": 401}
    hookpoint = "mid_block.attentions.0"
    return Stream(grid=grid, d_in=d_in, **{"hookpoint": hookpoint, **some, **others})


def sample_of(
    image_id: str, seed: int, split: str, updates: Mapping[str, np.ndarray], **others: Any
) -> CollectedSample:
    """A picture or text without a caption."""
    about = {"prompt": "", **others}
    return CollectedSample(image_id=image_id, seed=seed, split=split, updates=updates, **about)


def write_random(root: Path, streams: Sequence[Stream], groups: Sequence[tuple[str, int]]) -> Path:
    """A group a (split, count of pictures): normal numbers, seeded by the group's index. Picture 2
    of group 0 is g0i2.
    """
    writer = ActivationWriter(root, streams=streams, header={"model": "toy"}, with_images=False)
    for index, (split, count) in enumerate(groups):
        rng = np.random.default_rng(index)
        samples = []
        for n in range(count):
            updates = {
                s.folder: rng.normal(size=(s.positions, s.d_in)).astype(np.float32) for s in streams
            }
            samples.append(sample_of(f"g{index}i{n}", n, split, updates))
        writer.write_group(index, samples)
    writer.finish()
    return root


def data_of(root: Path, **options: Any) -> ActivationDataModule:
    """Batches of the stream mid, 0.5, cond; what is not named of the settings has some value."""
    cell = {"block": "mid", "t": 0.5, "conditioning": "cond"}
    some = {"batch_size": 5, "buffer_vectors": 12, "seed": 7}
    return ActivationDataModule(root, **{**cell, **some, **options})


def contents(root: Path) -> dict[str, str]:
    """The SHA-256 of every file that makes a collection."""
    return {
        str(path.relative_to(root)): sha256_of(path)
        for path in root.rglob("*")
        if path.is_file() and path.name not in ("run.json", ".lock", ".lock.json")
    }
