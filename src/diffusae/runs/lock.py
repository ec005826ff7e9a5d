"""One process a directory."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from diffusae.errors import UserError
from diffusae.files import atomic_write_json
from diffusae.parsing import read_json
from diffusae.runs.disk import READ_ONLY, is_writable

LOCK = ".lock"
OWNER = ".lock.json"

NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS)
"""What file systems without locks say: some network disks."""


@contextmanager
def directory_lock(directory: Path | str, *, wait_s: float = 0) -> Iterator[None]:
    """Hold `directory` (made where it is missing) while the block runs; wait `wait_s` seconds for
    it at the most.

    The lock is the kernel's, so it ends with its owner, killed or not; a small file beside it says
    whose it is. A directory that cannot be written needs no lock, and gets none.

    Raises:
        UserError: another process holds the directory (its PID, host and start are named), the
            directory's name is too long, or its file system has no locks.
    """
    directory = Path(directory)
    lock = FileLock(directory / LOCK)
    if not _acquired(lock, directory, wait_s):
        yield
        return
    try:
        started = datetime.now(UTC).isoformat(timespec="seconds")
        owner = {"pid": os.getpid(), "host": socket.gethostname(), "started": started}
        atomic_write_json(directory / OWNER, owner, durable=False)
        yield
    finally:
        (directory / OWNER).unlink(missing_ok=True)
        lock.release()


def _acquired(lock: FileLock, directory: Path, wait_s: float) -> bool:
    """Take the lock; False: the directory is there and cannot be written, by nobody here."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=wait_s)
        return True
    except Timeout:
        raise UserError(
            f"{directory} is in use by {_owner(directory)}; wait for it, stop it, or choose another"
            " directory"
        ) from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise UserError(
                f"{directory}: the file system takes no name as long as {directory.name!r}; give a"
                " shorter name (sae.tag, name)"
            ) from None
        if error.errno in NO_LOCKS:
            raise _without_locks(directory, str(error.strerror)) from None
        if error.errno in READ_ONLY and directory.is_dir() and not is_writable(directory):
            return False
        raise
    except NotImplementedError as error:  # what filelock makes of ENOSYS
        raise _without_locks(directory, str(error)) from None


def _without_locks(directory: Path, why: str) -> UserError:
    return UserError(
        f"{directory}: its file system has no file locks ({why}), so two processes could write the"
        " same files; mount it with locks, or choose a directory on another disk (paths.outputs)"
    )


def holder(directory: Path | str) -> str | None:
    """Who holds `directory`, in words; None where nobody does."""
    directory = Path(directory)
    if not (directory / LOCK).exists():
        return None
    lock = FileLock(directory / LOCK)
    try:
        if not _acquired(lock, directory, 0):
            return None
    except UserError:
        return _owner(directory)
    lock.release()
    return None


def _owner(directory: Path) -> str:
    try:
        who = read_json(directory / OWNER, remedy="")
        return f"process {who['pid']} on {who['host']}, started {who['started']}"
    except (OSError, ValueError, KeyError, TypeError):  # it has only just begun, or is about to end
        return "another process"
