"""Writing files so that a kill at any moment leaves either the old file, the new file, or a temporary one."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffusae.masking import masked_json

TEMPORARY_SUFFIX = ".partial"


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it takes the final name on success and is removed on error.

    The data are flushed to the disk before the rename, so the final name never shows a cut file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}{TEMPORARY_SUFFIX}")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.filename is None:  # a full disk is told by a write, which knows no name
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def is_left_over(path: Path) -> bool:
    """Whether a temporary file is that of a process of this machine that was killed before the rename."""
    owner = re.search(rf"\.(\d{{1,9}}){re.escape(TEMPORARY_SUFFIX)}$", path.name)
    return owner is not None and not _is_another_live_process(int(owner[1]))


def _is_another_live_process(pid: int) -> bool:
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def atomic_write_json(path: Path | str, value: Any) -> None:
    """Write `value` as indented JSON under its final name only when it is whole. NaN and infinities are refused, secrets masked."""
    text = masked_json(json.dumps(value, indent=2, allow_nan=False, sort_keys=False), indent=2)
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def sha256_of(path: Path | str) -> str:
    """The SHA-256 of a file's bytes, as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
