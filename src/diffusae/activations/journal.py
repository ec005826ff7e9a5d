"""The journals of finished groups on disk."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from diffusae.activations.places import place_faults
from diffusae.activations.schema import GROUPS, Group
from diffusae.errors import UserError, together
from diffusae.files import CHECKSUM, read_sealed
from diffusae.parsing import reading

logger = logging.getLogger(__name__)


def journal_path(root: Path, index: int) -> Path:
    """The path of the journal of group `index`."""
    return root / GROUPS / f"{index:06d}.json"


def read_journals(root: Path) -> dict[int, Group]:
    """The groups with a journal, by index. A damaged journal is logged and left out."""
    groups = {}
    for path in sorted((root / GROUPS).glob("[0-9]*.json")):
        try:
            groups[int(path.stem)] = _read(path)
        except (UserError, FileNotFoundError, ValueError) as error:
            logger.warning("%s", error)
    return groups


def _read(path: Path) -> Group:
    remedy = "its group counts as unfinished"
    value = read_note(path, remedy=remedy)
    with reading(path, remedy=remedy):
        group = Group.from_json(value)
        if path.name != journal_path(path, group.index).name:
            raise UserError(f"it is the journal of group {group.index}")
        together(place_faults([shard.to_json() for shard in group.shards], path))
        return group


def read_note(path: Path, *, remedy: str) -> dict[str, Any]:
    """The values of a file below `groups/` that `write_sealed` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: it is damaged. The message ends with `remedy`.
    """
    with reading(path, remedy=remedy):
        value = read_sealed(path)
        value.pop(CHECKSUM, None)
        return value


def size_of(path: Path) -> int | None:
    """A file's size in bytes; None if there is no such file."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None
