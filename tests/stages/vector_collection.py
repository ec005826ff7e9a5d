"""A collection without pictures: random vectors of one cell, mid at t = 1."""

from pathlib import Path

import numpy as np

from diffusae.activations.schema import CollectedSample, Stream
from diffusae.activations.writer import ActivationWriter
from diffusae.runs.record import run_record


def place_vectors(activations: Path) -> None:
    """20 training pictures of 10 vectors: batches of 64 end with one of 8."""
    stream = Stream(block="mid", t=1.0, conditioning="cond", hookpoint="mid_block.attentions.0",
                    step_index=0, timestep=801, grid=(2, 5), d_in=32)  # fmt: skip
    with run_record(activations, stage="collect", config={}, determines={}, parents={}, seed=0):
        writer = ActivationWriter(
            activations, streams=[stream], header={"model": "toy"}, with_images=False
        )
        for index, (split, count) in enumerate([("train", 12), ("train", 8), ("validation", 3)]):
            rng = np.random.default_rng(index)
            writer.write_group(
                index,
                [
                    CollectedSample(
                        image_id=f"g{index}i{n}",
                        prompt="",
                        seed=n,
                        split=split,
                        updates={stream.folder: rng.normal(size=(10, 32)).astype(np.float32)},
                    )
                    for n in range(count)
                ],
            )
        writer.finish()
