"""Locks on directories, so that only one process writes to one."""

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
"""Errors of file systems without locks (some network disks)."""


@contextmanager
def directory_lock(directory: Path | str, *, wait_s: float = 0) -> Iterator[None]:
    """Lock `directory` during the block, after at most `wait_s` seconds. A missing one is made.

    The kernel releases the lock when its owner ends, even if it is killed. A small file names the
    owner. A directory that cannot be written is not locked.

    Raises:
        UserError: another process holds the directory (with its PID, host and start), its name is
            too long, or its file system has no locks.
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
    """Take the lock. False if the directory exists and cannot be written."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=wait_s)
        return True
    except Timeout:
        raise UserError(
            f"{directory} is in use by {_owner(directory)}; wait for it, stop it, or choose "
            "another directory"
        ) from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise UserError(
                f"{directory}: the name {directory.name!r} is too long for the file system; give a "
                "shorter name (sae.tag, name)"
            ) from None
        if error.errno in NO_LOCKS:
            raise _without_locks(directory, str(error.strerror)) from None
        if error.errno in READ_ONLY and directory.is_dir() and not is_writable(directory):
            return False
        raise
    except NotImplementedError as error:  # filelock's error for ENOSYS
        raise _without_locks(directory, str(error)) from None


def _without_locks(directory: Path, why: str) -> UserError:
    return UserError(
        f"{directory}: its file system has no file locks ({why}), so two processes could write the "
        "same files; mount it with locks, or choose a directory on another disk (paths.outputs)"
    )


def holder(directory: Path | str) -> str | None:
    """The holder of `directory`'s lock, in words; None if there is none."""
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
    except (OSError, ValueError, KeyError, TypeError):  # it begins or ends right now
        return "another process"
