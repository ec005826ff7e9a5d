"""A few edited pictures of an evaluation, kept to be looked at: before and after, by the concepts and by each control."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from diffusae.files import atomic_path

EXAMPLES = "examples.parquet"


@dataclass(frozen=True, eq=False)
class Example:
    """One picture of one case.

    Attributes:
        case: what was to happen, such as "fish to top_left".
        image_id, prompt: of the picture.
        method: no_edit, concepts, or a control.
        strength: of the edit; 0 without.
        success: whether it happened.
        picture: uint8 [height, width, 3].
    """

    case: str
    image_id: str
    prompt: str
    method: str
    strength: float
    success: bool
    picture: np.ndarray


def save_examples(directory: Path, examples: Sequence[Example]) -> None:
    """Write examples.parquet, the pictures as PNG, atomically."""
    rows = [{**asdict(example), "picture": _png(example.picture)} for example in examples]
    with atomic_path(directory / EXAMPLES) as temporary:
        pd.DataFrame(rows).to_parquet(temporary, engine="pyarrow", index=False)


def _png(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="PNG")
    return file.getvalue()
