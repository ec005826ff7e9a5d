"""Picture files of every sort, made on the spot."""

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image


def pixels(n: int, height: int = 12, width: int = 16) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(picture: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, kind, **options)
    return stream.getvalue()


def put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def sample(key: str, n: int, label: str) -> list[tuple[str, bytes]]:
    """A picture with its label as every member that can hold it, and a member that nobody reads."""
    return [
        (f"{key}.png", encoded(pixels(n))),
        (f"{key}.cls", f"{label}\n".encode()),
        (f"{key}.json", json.dumps({"breed": label}).encode()),
        (f"{key}.mask.npy", b"whatever"),
    ]
