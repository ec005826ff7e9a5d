"""The purest latents of finished evaluations, as the report and W&B show them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from diffusae.activations.manifest import Manifest
from diffusae.activations.reader import read_images
from diffusae.concepts.gallery import Gallery
from diffusae.concepts.montage import montage
from diffusae.files import verified
from diffusae.labelling.labelled_pictures import label_tasks
from diffusae.study.study import Study
from diffusae.table_files import read_table


def load_purest(directory: Path) -> tuple[Gallery, pd.DataFrame]:
    """The gallery of a finished evaluation, and the table of its latents, by latent."""
    table = read_table(
        verified(directory / TABLE),
        {"latent": "whole"},
        remedy=f"remove {directory} and evaluate this cell again",
    )
    return Gallery.load(directory), table.set_index("latent")


def shared_labels(
    table: pd.DataFrame, latent: int, tasks: Sequence[str]
) -> list[tuple[str, float]]:
    """What most of a latent's top pictures are, task by task, the largest share first: such as
    ("style neon", 0.9).
    """
    row: Any = table.loc[latent]
    found = [
        (f"{task} {row[f'{task}_label']}", float(row[f"{task}_share"]))
        for task in tasks
        if isinstance(row[f"{task}_label"], str)
    ]
    return sorted(found, key=lambda each: -each[1])


def purity_panel(study: Study) -> list[tuple[str, np.ndarray]]:
    """The gallery as `WandbMirror.panel` takes it."""
    manifest, settings = Manifest.load(study.activations), study.part("evaluation")
    tasks = list(label_tasks(manifest, settings["tasks"]))
    gallery, table = load_purest(study.evaluation("purity"))
    wanted = {image_id for each in gallery.image_ids for image_id in each}
    images = {
        image_id: picture
        for image_id, picture, _ in read_images(study.activations, manifest, settings["split"])
        if image_id in wanted
    }
    pictures = []
    for latent, image_ids, maps in zip(
        gallery.latents, gallery.image_ids, gallery.maps, strict=True
    ):
        told = ", ".join(
            f"{name} {share:.0%}" for name, share in shared_labels(table, latent, tasks)
        )
        drawn = montage(
            [(images[i], heat.numpy()) for i, heat in zip(image_ids, maps, strict=True)]
        )
        pictures.append((f"latent {latent}: {told}", drawn))
    return pictures


TABLE = "latents.parquet"
