"""What was found in a picture, kept by the picture's own hash, so that no model looks at it
twice.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from diffusae.concepts.annotators import Annotation
from diffusae.errors import UserError
from diffusae.files import atomic_path
from diffusae.parsing import json_value, reading, typed
from diffusae.tensor_files import read_header, read_tensors

log = logging.getLogger(__name__)

VERSION = 1


def picture_key(picture: np.ndarray, context: Mapping[str, Any]) -> str:
    """A hash of a picture's pixels and of all else that determines what is found in it (`context`,
    plain values).
    """
    told = json.dumps([VERSION, list(picture.shape), str(picture.dtype), context], sort_keys=True)
    digest = hashlib.sha256(told.encode())
    digest.update(np.ascontiguousarray(picture).tobytes())
    return digest.hexdigest()


class AnnotationCache:
    """One safetensors file a picture: its masks as bits, the rest as JSON, and a checksum over
    both.

    Files are written atomically, and a file that is not whole is told, ignored and written anew.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)

    def path(self, key: str) -> Path:
        """Where a picture's entry lies."""
        return self.folder / key[:2] / f"{key}.safetensors"

    def put(self, key: str, found: Annotation) -> None:
        """Keep what was found in a picture."""
        stack = np.stack(list(found.masks.values())) if found.masks else np.zeros((0, 1, 1), bool)
        bits = np.packbits(stack.reshape(len(stack), stack.shape[1] * stack.shape[2]), axis=1)
        described = json.dumps(
            {
                "version": VERSION,
                "nouns": list(found.masks),
                "size": list(stack.shape[1:]),
                "colours": found.colours,
                "factors": found.factors,
                "scores": found.scores,
            }
        )
        with atomic_path(self.path(key)) as temporary:
            save_file(
                {"masks": bits},
                str(temporary),
                metadata={"annotation": described, "sha256": _checksum(key, described, bits)},
            )

    def get(self, key: str) -> Annotation | None:
        """What was found in a picture; None where it is not known, or its entry is corrupt."""
        path = self.path(key)
        if not path.is_file():
            return None
        remedy = "this picture is annotated again"
        try:
            with reading(path, remedy=remedy):
                return _annotation(key, path, remedy)
        except (UserError, FileNotFoundError) as error:
            log.warning("%s", error)
            return None


@dataclass(frozen=True, kw_only=True)
class _Described:
    """What an entry says beside its masks."""

    version: int
    nouns: list[str]
    size: tuple[int, int]
    colours: dict[str, str]
    factors: dict[str, str]
    scores: dict[str, list[float]]


def _annotation(key: str, path: Path, remedy: str) -> Annotation:
    header = read_header(path, remedy=remedy)
    bits = read_tensors(path, remedy=remedy, shapes={"masks": header.shapes.get("masks", ())})[
        "masks"
    ].numpy()
    text = header.metadata["annotation"]
    if header.metadata["sha256"] != _checksum(key, text, bits):
        raise UserError("its checksum differs")
    told = typed(_Described, json_value(text))
    height, width = told.size
    if (
        min(told.size) < 1
        or bits.dtype != np.uint8
        or bits.shape != (len(told.nouns), -(-height * width // 8))
    ):
        raise UserError(
            f"masks {list(bits.shape)} of {bits.dtype} are not those of {len(told.nouns)} nouns at"
            f" {told.size}"
        )
    masks = (
        np.unpackbits(bits, axis=1, count=height * width)
        .reshape(len(bits), height, width)
        .astype(bool)
    )
    return Annotation(
        masks=dict(zip(told.nouns, masks, strict=True)),
        colours=told.colours,
        factors=told.factors,
        scores=told.scores,
    )


def _checksum(key: str, described: str, bits: np.ndarray) -> str:
    digest = hashlib.sha256(f"{key}\n{described}\n{bits.shape}\n".encode())
    digest.update(bits.tobytes())
    return digest.hexdigest()
