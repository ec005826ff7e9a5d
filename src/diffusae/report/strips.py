"""The strips over lambda that a study has: those of its evaluations and those of its `diffusae
steer` runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from diffusae.errors import UserError
from diffusae.files import verified
from diffusae.report.before_after import load_examples
from diffusae.report.study import Run, Steered, Strip
from diffusae.runs.record import RunRecord
from diffusae.runs.survey import finished_runs


def strips_of(directory: Path) -> Iterator[Strip]:
    """Every finished strip below an experiment's directory, evaluations first."""
    for path, record in finished_runs(directory / "evaluation" / "steering", "*"):
        for example in load_examples(path):
            pictures = [
                Steered(each.strength, each.success, each.image) for each in example.pictures
            ]
            yield Strip(
                example.case, example.prompt, _place(record), pictures, _run(directory, path)
            )
    for path, record in finished_runs(directory / "steer", "*"):
        made = record.determines
        if made["intervention"]["name"] != "text":
            continue
        pictures = [Steered(0.0, None, _read(path / "before.png"))]
        pictures += [
            Steered(s, None, _read(path / f"strength{s:+g}.png")) for s in made["strengths"]
        ]
        yield Strip(
            made["concept"], made["prompt"], _place(record), pictures, _run(directory, path)
        )


def _place(record: RunRecord) -> str:
    """The layer, and the tag by which its autoencoders are told apart."""
    return f"{record.determines['cell']['block']} · {record.config['sae']['tag']}"


def _run(directory: Path, path: Path) -> Run:
    return Run(path.relative_to(directory).as_posix())


def _read(path: Path) -> np.ndarray:
    try:
        with Image.open(verified(path), formats=["PNG"]) as picture:
            return np.asarray(picture.convert("RGB"))
    except (
        FileNotFoundError,
        UnidentifiedImageError,
        Image.DecompressionBombError,
        OSError,
    ) as error:
        raise UserError(
            f"{path} is not readable as a picture ({error}); remove its directory and steer again"
        ) from error
