"""Checks for full and read-only disks."""

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
"""Errors of the system if this user cannot write."""


def free_bytes(path: Path | str) -> int:
    """Free bytes on the disk of `path`, or of its nearest existing parent."""
    return shutil.disk_usage(_nearest(path)).free


def _nearest(path: Path | str) -> Path:
    place = Path(path).absolute()
    while not place.exists():
        place = place.parent
    return place


def is_writable(directory: Path | str) -> bool:
    """Whether this user can make files in `directory`, or in its nearest existing parent."""
    return os.access(_nearest(directory), os.W_OK)


def require_writable(directory: Path | str, *, instead: str) -> None:
    """`UserError` if `directory` cannot be written. `instead` is the setting for another place."""
    if not is_writable(directory):
        raise UserError(
            f"{directory} cannot be written, its disk is read-only or another user's; give "
            f"{instead}=DIRECTORY"
        )


def require_free(path: Path | str, bytes_needed: int) -> None:
    """`UserError`, with estimated and free bytes, if the disk of `path` lacks `bytes_needed`."""
    free = free_bytes(path)
    if bytes_needed > free:
        raise UserError(
            f"an estimated {_gigabytes(bytes_needed)} are needed at {path}, {_gigabytes(free)} are "
            f"free; free {_gigabytes(bytes_needed - free)}, choose another disk, collect fewer "
            "images, blocks, timesteps or positions (activations.positions_per_image), or ignore "
            "this with activations.ignore_free_disk=true"
        )


@contextmanager
def where_writable(path: Path | str, *, otherwise: str) -> Iterator[None]:
    """For writing optional files: on a read-only disk, log `otherwise` and continue after the
    block."""
    try:
        yield
    except OSError as error:
        if error.errno not in READ_ONLY:
            raise
        log.warning("%s cannot be written (%s): %s", path, error.strerror, otherwise)


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB ({count} bytes)"
