"""examples.parquet: a few pictures before and after an intervention, for the report and for W&B."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, UnidentifiedImageError

from diffusae.errors import UserError
from diffusae.files import verified
from diffusae.report.study import EditedPicture, Example
from diffusae.table_files import Kind, read_table, write_table

FILE = "examples.parquet"
PANEL = "before_after"
_COLUMNS: Mapping[str, Kind] = {
    "case": "text",
    "image_id": "text",
    "prompt": "text",
    "method": "text",
    "strength": "number",
    "success": "any",
    "picture": "bytes",
}


@dataclass(frozen=True, eq=False)
class Kept:
    """One picture of one case.

    Attributes:
        case: what was to happen, such as "fish to top_left".
        image_id, prompt: of the picture.
        method: no_edit, concepts, or a control; target_region shows where an object is to be.
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


def save_examples(directory: Path, examples: Sequence[Kept]) -> None:
    """Write examples.parquet, the pictures as PNG, atomically."""
    rows = [{**asdict(example), "picture": _png(example.picture)} for example in examples]
    write_table(directory / FILE, pd.DataFrame(rows))


def _png(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="PNG")
    return file.getvalue()


def panel_name(metric: str) -> str:
    """The name of an evaluation's pictures in the cell's W&B run."""
    return f"{PANEL}/{metric}"


def load_examples(directory: Path) -> list[Example]:
    """The cases of an evaluation in the order of the file, each with its pictures; none where it
    kept none.

    Raises:
        UserError: a column is missing, or a picture does not decode.
    """
    path = directory / FILE
    if not path.exists():
        return []
    remedy = f"evaluate this cell again, once {directory} is removed"
    table = read_table(verified(path), _COLUMNS, remedy=remedy)
    pictures_of: dict[tuple[str, str], list[EditedPicture]] = {}
    prompts: dict[tuple[str, str], str] = {}
    for case, image_id, prompt, method, strength, success, png in zip(
        *(table[name].tolist() for name in _COLUMNS), strict=True
    ):
        picture = EditedPicture(str(method), float(strength), bool(success), _decoded(png, path))
        pictures_of.setdefault((case, image_id), []).append(picture)
        prompts[case, image_id] = prompt
    return [Example(key[0], prompts[key], pictures) for key, pictures in pictures_of.items()]


def captioned(directory: Path) -> list[tuple[str, np.ndarray]]:
    """The pictures as `WandbMirror.panel` takes them, each with its case, method, strength and
    outcome.
    """
    return list(_captioned(load_examples(directory)))


def _captioned(examples: list[Example]) -> Iterator[tuple[str, np.ndarray]]:
    for example in examples:
        for picture in example.pictures:
            yield f"{example.case}: {picture.caption}", picture.image


def _decoded(png: bytes, path: Path) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as picture:
            return np.asarray(picture.convert("RGB"))
    except (UnidentifiedImageError, OSError, TypeError) as error:
        raise UserError(
            f"{path} holds a picture that does not decode ({error}); evaluate this cell again, once"
            " its directory is removed"
        ) from error
