"""What was found in a picture, kept by the picture's own hash, so that no model looks at it twice."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from diffusae.concepts.annotators import Annotation
from diffusae.files import atomic_path

log = logging.getLogger(__name__)

VERSION = 1


def picture_key(picture: np.ndarray, context: Mapping[str, Any]) -> str:
    """A hash of a picture's pixels and of all else that determines what is found in it (`context`, plain values)."""
    told = json.dumps([VERSION, list(picture.shape), str(picture.dtype), context], sort_keys=True)
    digest = hashlib.sha256(told.encode())
    digest.update(np.ascontiguousarray(picture).tobytes())
    return digest.hexdigest()


class AnnotationCache:
    """One safetensors file a picture: its masks as bits, the rest as JSON, and a checksum over both.

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
        try:
            with safe_open(str(path), framework="numpy") as file:
                metadata, bits = file.metadata() or {}, file.get_tensor("masks")
            described = metadata["annotation"]
            if metadata["sha256"] != _checksum(key, described, bits):
                raise ValueError("its checksum differs")
            value = json.loads(described)
            height, width = value["size"]
            flat = np.unpackbits(bits, axis=1, count=height * width) if len(bits) else bits
            masks = flat.reshape(len(bits), height, width).astype(bool)
            return Annotation(
                masks=dict(zip(value["nouns"], masks, strict=True)),
                colours=value["colours"],
                factors=value["factors"],
                scores=value["scores"],
            )
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            log.warning("%s is corrupt (%s); this picture is annotated again", path, error)
            return None


def _checksum(key: str, described: str, bits: np.ndarray) -> str:
    digest = hashlib.sha256(f"{key}\n{described}\n{bits.shape}\n".encode())
    digest.update(bits.tobytes())
    return digest.hexdigest()
