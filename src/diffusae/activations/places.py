"""A collection stays in its directory: no path that it names and no symbolic link in it leads
out."""

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


def place_faults(shards: Iterable[Any], told_by: Path | str) -> list[str]:
    """What is wrong with the paths and hashes of shards, as JSON has them, in words.

    A path is made of letters, digits, `_`, `-` and dots that begin no part, ends in `.tar`, and
    comes once: nothing that could lead out of the directory, into a command, or onto another file
    of the collection.
    """
    faults, seen = [], set()
    for shard in shards:
        path, digest = (
            (shard.get("path"), shard.get("sha256")) if isinstance(shard, Mapping) else (None, None)
        )
        if not isinstance(path, str) or len(path) > _LONGEST or not _PLACE.fullmatch(path):
            faults.append(
                f"{told_by} names {str(path)[:_LONGEST]!r}, which is no shard's place; do not"
                " use it"
            )
        elif path.lower() in seen:
            faults.append(f"{told_by} names the shard {path} twice; do not use it")
        elif not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
            faults.append(f"{told_by} gives the shard {path} no SHA-256; do not use it")
        seen.add(str(path).lower())
    return faults


def require_inside(root: Path | str) -> None:
    """Refuse a collection with symbolic links that lead out of it. The collection's directory
    itself may be one.

    Raises:
        UserError: with every such link.
    """
    root = Path(root)
    inside = root.resolve()
    faults = []
    for folder, folders, files in os.walk(root):  # links are listed, not followed
        for name in (*folders, *files):
            path = Path(folder, name)
            if path.is_symlink() and not path.resolve().is_relative_to(inside):
                faults.append(
                    f"{path} is a link that leads out of the collection, to {path.resolve()}; put"
                    " the files themselves there, or make the collection's directory the link"
                )
    together(faults)
