"""A small real collection: two streams, two training groups and a validation group of 3
pictures."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from diffusae.activations.manifest import Manifest
from diffusae.activations.schema import CollectedSample, Stream
from diffusae.activations.writer import ActivationWriter
from small_collections import stream_of

HEADER = {"model": "toy", "scheduler": "DDIM", "steps": 5, "guidance": 4.0}


@pytest.fixture
def streams() -> list[Stream]:
    mid = stream_of((2, 3), 4)
    place = {"hookpoint": "up_blocks.1.attentions.0", "step_index": 0, "timestep": 801}
    up = stream_of((1, 2), 5, block="up", t=1.0, conditioning="uncond", **place)
    return [mid, up]


@pytest.fixture
def record(streams: list[Stream]) -> Callable[..., CollectedSample]:
    """Picture number n: every number of its updates and pixels follows from n."""

    def make(n: int, split: str = "train") -> CollectedSample:
        rng = np.random.default_rng(n)
        updates = {
            s.folder: rng.normal(size=(s.positions, s.d_in)).astype(np.float32) for s in streams
        }
        image = rng.integers(0, 256, size=(6, 8, 3), dtype=np.uint8)
        return CollectedSample(image_id=f"img{n:04d}", prompt=f"picture {n}", seed=n, split=split,
                           updates=updates, image=image, meta={"noun": "cat"})  # fmt: skip

    return make


@pytest.fixture
def writer(tmp_path: Path, streams: list[Stream]) -> Callable[[], ActivationWriter]:
    return lambda: ActivationWriter(tmp_path / "activations", streams=streams, header=HEADER)


@pytest.fixture
def collection(
    writer: Callable[[], ActivationWriter], record: Callable[..., CollectedSample]
) -> tuple[Path, Manifest]:
    """Groups 0 and 1 are train (pictures 0-5), group 2 is validation (6-8)."""
    made = writer()
    for index, split in enumerate(["train", "train", "validation"]):
        made.write_group(index, [record(3 * index + n, split) for n in range(3)])
    return made.root, made.finish()
