"""A collection of labelled pictures, made by hand: updates, pictures and an autoencoder in which
everything is planted.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from composing import compose
from diffusae.activations.schema import CollectedSample
from diffusae.activations.writer import ActivationWriter
from diffusae.runs.record import run_record
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.sparsity import TopK
from diffusae.sae.storage import save_sae
from diffusae.study.study import Study
from small_collections import stream_of

TASKS = {"object": ["fish", "bird", "star"], "place": ["left", "right"]}
GRID, D_IN = (4, 4), 8
COUNTS = {"dictionary": 60, "tune": 30, "test": 60}
STREAM = stream_of(GRID, D_IN, conditioning="uncond", step_index=24, timestep=501.0)


def study_in(
    outputs: Path, *overrides: str, evaluation: str = "knowledge", stage: str = "evaluate"
) -> Study:
    """The study of the one cell."""
    cfg = compose(
        stage,
        overrides=[
            "name=made",
            f"paths.outputs={outputs}",
            "collection=pictures_world",
            "block=mid",
            "timestep.t=0.5",
            "grid.timesteps=[0.5]",
            "grid.blocks=[mid]",
            "logger.mode=disabled",
            f"evaluation={evaluation}",
            *overrides,
        ],
    )
    return Study(cfg)


def picture_number(n: int, split: str, *, knows: bool = True) -> CollectedSample:
    """Picture n: channel 0, 1 or 2 is strong where its object is, on the left or the right half;
    every third picture has no object label. The pixels show the place (one half is bright) and not
    the object. `knows=False`: noise alone.
    """
    rng = np.random.default_rng([n, list(COUNTS).index(split)])
    kind, side = int(rng.integers(3)), int(rng.integers(2))
    updates = rng.normal(0, 0.1, (*GRID, D_IN))
    if knows:
        updates[:, 2 * side : 2 * side + 2, kind] += 4
    pixels = rng.integers(0, 60, (8, 8, 3))
    pixels[:, 4 * side : 4 * side + 4] += 150
    labels = {"place": TASKS["place"][side], **({"object": TASKS["object"][kind]} if n % 3 else {})}
    return CollectedSample(
        image_id=f"{split}{n:03d}",
        prompt="",
        seed=n,
        split=split,
        updates={STREAM.folder: updates.reshape(-1, D_IN).astype(np.float32)},
        image=pixels.astype(np.uint8),
        meta={"labels": labels},
    )


def place_collection(
    root: Path, *, knows: bool = True, counts: dict[str, int] | None = None
) -> None:
    """What `diffusae collect collection=pictures_world` leaves, with `knows=False` of random
    weights.
    """
    header = {
        "model": "miniature",
        "source": "made",
        "scheduler": "DDIM",
        "steps": 50,
        "collection": "pictures",
        "prompt": "",
        "record": "update",
        "pooled": False,
        "random_weights": not knows,
        "undecodable_pictures": 0,
        "label_tasks": TASKS,
    }
    with run_record(
        root, stage="collect", config={}, determines={"knows": knows}, parents={}, seed=0
    ):
        writer = ActivationWriter(root, streams=[STREAM], header=header)
        for index, (split, count) in enumerate((counts or COUNTS).items()):
            writer.write_group(index, [picture_number(n, split, knows=knows) for n in range(count)])
        writer.finish()


def place_sae(study: Study) -> None:
    """An autoencoder with a latent for each channel, both ways: latent 0 to 2 are the objects."""
    sae = SparseAutoencoder(D_IN, 2 * D_IN, TopK(2), input_scaling="none", seed=0)
    directions = torch.cat([torch.eye(D_IN), -torch.eye(D_IN)])
    with torch.no_grad():
        sae.W_enc.copy_(directions)
        sae.W_dec.copy_(directions)
    with run_record(
        study.sae, stage="train", config=study.config(), determines={}, parents={}, seed=0
    ):
        save_sae(study.sae, sae, {})


def place_all(study: Study) -> None:
    """The collection, that of random weights, and the autoencoder."""
    place_collection(study.activations)
    place_collection(study.directory / "activations_random", knows=False)
    place_sae(study)


def value(row: Any) -> float:
    """The value of a row that has data."""
    assert row.value is not None
    return row.value
