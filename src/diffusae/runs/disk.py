"""Disks that cannot hold what is to come, and those that cannot be written."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diffusae.errors import UserError

log = logging.getLogger(__name__)

READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
"""What the system says where this user cannot write."""


def free_bytes(path: Path | str) -> int:
    """What is free on the disk of `path`, which need not exist yet: its nearest existing parent
    tells the disk."""
    return shutil.disk_usage(_nearest(path)).free


def _nearest(path: Path | str) -> Path:
    place = Path(path).absolute()
    while not place.exists():
        place = place.parent
    return place


def is_writable(directory: Path | str) -> bool:
    """Whether this user can make files in `directory`, which need not exist yet."""
    return os.access(_nearest(directory), os.W_OK)


def require_writable(directory: Path | str, *, instead: str) -> None:
    """Raise `UserError` where nothing can be written; `instead` is the setting that names another
    place."""
    if not is_writable(directory):
        raise UserError(
            f"{directory} cannot be written, its disk is read-only or another user's; give"
            f" {instead}=DIRECTORY"
        )


def require_free(path: Path | str, bytes_needed: int) -> None:
    """Raise `UserError`, with estimate and free bytes, where the disk of `path` lacks
    `bytes_needed`."""
    free = free_bytes(path)
    if bytes_needed > free:
        raise UserError(
            f"an estimated {_gigabytes(bytes_needed)} are needed at {path}, {_gigabytes(free)} are"
            f" free; free {_gigabytes(bytes_needed - free)}, choose another disk, collect fewer"
            " images, blocks, timesteps or positions (activations.positions_per_image), or go on"
            " all the same with activations.ignore_free_disk=true"
        )


@contextmanager
def where_writable(path: Path | str, *, otherwise: str) -> Iterator[None]:
    """Write in the block what nothing later needs; on a disk that cannot be written, say
    `otherwise` and go on."""
    try:
        yield
    except OSError as error:
        if error.errno not in READ_ONLY:
            raise
        log.warning("%s cannot be written (%s): %s", path, error.strerror, otherwise)


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB ({count} bytes)"
