"""The purest latents of finished evaluations, as the report and W&B show them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from diffusae.concepts.gallery import Gallery
from diffusae.files import verified
from diffusae.table_files import read_table

TABLE = "latents.parquet"


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
    shared = [
        (f"{task} {row[f'{task}_label']}", float(row[f"{task}_share"]))
        for task in tasks
        if isinstance(row[f"{task}_label"], str)
    ]
    return sorted(shared, key=lambda label: -label[1])
