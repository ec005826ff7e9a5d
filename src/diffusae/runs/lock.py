"""One process a directory."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from diffusae.errors import UserError
from diffusae.files import atomic_write_json

LOCK = ".lock"
OWNER = ".lock.json"


@contextmanager
def directory_lock(directory: Path | str, *, wait_s: float = 0) -> Iterator[None]:
    """Hold `directory` (made where it is missing) while the block runs; wait `wait_s` seconds for it at the most.

    The lock is the kernel's, so it ends with its owner, killed or not; a small file beside it says whose
    it is.

    Raises:
        UserError: another process holds the directory; its PID, host and start are named.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    lock = FileLock(directory / LOCK)
    try:
        lock.acquire(timeout=wait_s)
    except Timeout:
        raise UserError(
            f"{directory} is in use by {_owner(directory)}; wait for it, stop it, or choose another directory"
        ) from None
    try:
        started = datetime.now(UTC).isoformat(timespec="seconds")
        atomic_write_json(
            directory / OWNER, {"pid": os.getpid(), "host": socket.gethostname(), "started": started}
        )
        yield
    finally:
        (directory / OWNER).unlink(missing_ok=True)
        lock.release()


def holder(directory: Path | str) -> str | None:
    """Who holds `directory`, in words; None where nobody does."""
    directory = Path(directory)
    if not (directory / LOCK).exists():
        return None
    lock = FileLock(directory / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return _owner(directory)
    lock.release()
    return None


def _owner(directory: Path) -> str:
    try:
        who = json.loads((directory / OWNER).read_text(encoding="utf-8"))
        return f"process {who['pid']} on {who['host']}, started {who['started']}"
    except (OSError, ValueError, KeyError):  # it has only just begun, or is about to end
        return "another process"
