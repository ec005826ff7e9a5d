"""A small collection to attack."""

from pathlib import Path

import numpy as np
import pytest

from diffusae.activations.manifest import Manifest
from diffusae.activations.schema import CollectedSample
from diffusae.activations.writer import ActivationWriter
from small_collections import stream_of


@pytest.fixture
def collection(tmp_path) -> tuple[Path, Manifest]:
    """Groups 0 and 1 are train, group 2 is validation; one stream, three pictures a group."""
    stream = stream_of((2, 2), 4)
    root = tmp_path / "there"
    writer = ActivationWriter(
        root, streams=[stream], header={"model": "miniature"}, with_images=False
    )
    updates = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    for index, split in enumerate(["train", "train", "validation"]):
        about = {"prompt": "a fish", "split": split, "updates": {stream.folder: updates}}
        records = [
            CollectedSample(image_id=f"{3 * index + n:06d}", seed=n, **about) for n in range(3)
        ]
        writer.write_group(index, records, with_images=False)
    return root, writer.finish()
