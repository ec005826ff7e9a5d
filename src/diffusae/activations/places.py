"""Checks that no path in a collection's files and no symbolic link leads out of its directory."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from diffusae.errors import together

_PLACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*\.tar")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_LONGEST = 255


def place_faults(shards: Iterable[Any], named_by: Path | str) -> list[str]:
    """The faults in the paths and hashes of shards (JSON objects), in words.

    A path consists of letters, digits, `_`, `-`, `/` and dots, no part begins with a dot, it ends
    in `.tar` and is unique. So it cannot lead out of the directory, into a shell command or onto
    another file.
    """
    faults, seen = [], set()
    for shard in shards:
        entry = shard if isinstance(shard, Mapping) else {}
        path, digest = entry.get("path"), entry.get("sha256")
        if not isinstance(path, str) or len(path) > _LONGEST or not _PLACE.fullmatch(path):
            faults.append(
                f"{named_by} names {str(path)[:_LONGEST]!r}, which is no shard's place; do not use "
                "it"
            )
        elif path.lower() in seen:
            faults.append(f"{named_by} names the shard {path} twice; do not use it")
        elif not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
            faults.append(f"{named_by} gives the shard {path} no SHA-256; do not use it")
        seen.add(str(path).lower())
    return faults


def require_inside(root: Path | str) -> None:
    """`UserError` with all symbolic links that lead out of a collection. `root` itself may be a
    link."""
    root = Path(root)
    inside = root.resolve()
    faults = []
    for folder, folders, files in os.walk(root):  # links are listed, not followed
        for name in (*folders, *files):
            path = Path(folder, name)
            if path.is_symlink() and not path.resolve().is_relative_to(inside):
                faults.append(
                    f"{path} is a link that leads out of the collection, to {path.resolve()}; put "
                    "the files themselves there, or make the collection's directory the link"
                )
    together(faults)
