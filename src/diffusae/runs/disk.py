"""Refusing work that the disk cannot hold."""

from __future__ import annotations

import shutil
from pathlib import Path

from diffusae.errors import UserError


def require_free(path: Path | str, bytes_needed: int) -> None:
    """Raise `UserError`, with estimate and free bytes, where the disk of `path` lacks `bytes_needed`.

    `path` need not exist yet: its nearest existing parent tells the disk.
    """
    place = Path(path).absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if bytes_needed > free:
        raise UserError(
            f"an estimated {_gigabytes(bytes_needed)} are needed at {path}, {_gigabytes(free)} are free; "
            f"free {_gigabytes(bytes_needed - free)}, choose another disk, "
            "or collect fewer images, blocks or timesteps"
        )


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB ({count} bytes)"
