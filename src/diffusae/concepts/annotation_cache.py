"""A cache of annotations on disk, keyed by the picture's hash: no picture is annotated twice."""

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
    """SHA-256 of the pixels and of all else that determines an annotation (`context`, plain)."""
    header = json.dumps([VERSION, list(picture.shape), str(picture.dtype), context], sort_keys=True)
    digest = hashlib.sha256(header.encode())
    digest.update(np.ascontiguousarray(picture).tobytes())
    return digest.hexdigest()


class AnnotationCache:
    """One safetensors file a picture: masks as bits, the rest as JSON, a checksum over both.

    Files are written atomically. A damaged file is ignored with a warning and written again.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)

    def path(self, key: str) -> Path:
        """The file of a picture's entry."""
        return self.folder / key[:2] / f"{key}.safetensors"

    def put(self, key: str, annotation: Annotation) -> None:
        """Store the annotation of a picture."""
        masks = list(annotation.masks.values())
        stack = np.stack(masks) if masks else np.zeros((0, 1, 1), bool)
        bits = np.packbits(stack.reshape(len(stack), stack.shape[1] * stack.shape[2]), axis=1)
        described = json.dumps(
            {
                "version": VERSION,
                "nouns": list(annotation.masks),
                "size": list(stack.shape[1:]),
                "colours": annotation.colours,
                "factors": annotation.factors,
                "scores": annotation.scores,
            }
        )
        with atomic_path(self.path(key)) as temporary:
            save_file(
                {"masks": bits},
                str(temporary),
                metadata={"annotation": described, "sha256": _checksum(key, described, bits)},
            )

    def get(self, key: str) -> Annotation | None:
        """The stored annotation of a picture; None where there is none or its file is damaged."""
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
    """The JSON part of an entry: all but the masks."""

    version: int
    nouns: list[str]
    size: tuple[int, int]
    colours: dict[str, str]
    factors: dict[str, str]
    scores: dict[str, list[float]]


def _annotation(key: str, path: Path, remedy: str) -> Annotation:
    header = read_header(path, remedy=remedy)
    shapes = {"masks": header.shapes.get("masks", ())}
    bits = read_tensors(path, remedy=remedy, shapes=shapes)["masks"].numpy()
    text = header.metadata["annotation"]
    if header.metadata["sha256"] != _checksum(key, text, bits):
        raise UserError("its checksum differs")
    entry = typed(_Described, json_value(text))
    height, width = entry.size
    packed = (len(entry.nouns), -(-height * width // 8))
    if min(entry.size) < 1 or bits.dtype != np.uint8 or bits.shape != packed:
        raise UserError(
            f"masks {list(bits.shape)} of {bits.dtype} do not fit"
            f" {len(entry.nouns)} nouns at {entry.size}"
        )
    masks = np.unpackbits(bits, axis=1, count=height * width).reshape(len(bits), height, width)
    return Annotation(
        masks=dict(zip(entry.nouns, masks.astype(bool), strict=True)),
        colours=entry.colours,
        factors=entry.factors,
        scores=entry.scores,
    )


def _checksum(key: str, described: str, bits: np.ndarray) -> str:
    digest = hashlib.sha256(f"{key}\n{described}\n{bits.shape}\n".encode())
    digest.update(bits.tobytes())
    return digest.hexdigest()
