"""Damaged bytes may be read or raise `UserError`, and never take much memory."""

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from diffusae.errors import UserError

MOST_BYTES = 100 << 20
"""The most that the process may grow at one damaged file of some kilobytes."""


@contextmanager
def only_user_errors() -> Iterator[None]:
    """Accept a `UserError`; any other exception, or much memory, fails the test."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with suppress(UserError):
        yield
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < MOST_BYTES, f"{grown} bytes more for one damaged file"


@contextmanager
def replaced(path: Path, data: bytes) -> Iterator[None]:
    """Replace the file's bytes by `data` inside the context."""
    before = path.read_bytes()
    path.write_bytes(data)
    try:
        yield
    finally:
        path.write_bytes(before)


def unsealed(text: bytes) -> dict[str, Any]:
    """A JSON object without its checksum, which would hide other damage, and what needs one."""
    sealed = ("checksum", "outputs")
    return {name: value for name, value in json.loads(text).items() if name not in sealed}
