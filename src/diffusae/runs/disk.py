"""Refusing work that the disk cannot hold."""

from __future__ import annotations

import shutil
from pathlib import Path

from diffusae.errors import UserError


def free_bytes(path: Path | str) -> int:
    """What is free on the disk of `path`, which need not exist yet: its nearest existing parent tells the disk."""
    place = Path(path).absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def require_free(path: Path | str, bytes_needed: int) -> None:
    """Raise `UserError`, with estimate and free bytes, where the disk of `path` lacks `bytes_needed`."""
    free = free_bytes(path)
    if bytes_needed > free:
        raise UserError(
            f"an estimated {_gigabytes(bytes_needed)} are needed at {path}, {_gigabytes(free)} are free; "
            f"free {_gigabytes(bytes_needed - free)}, choose another disk, "
            "collect fewer images, blocks, timesteps or positions (activations.positions_per_image), "
            "or go on all the same with activations.ignore_free_disk=true"
        )


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB ({count} bytes)"
