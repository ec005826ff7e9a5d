"""The journals of finished groups, as they lie on disk."""

from __future__ import annotations

import logging
from pathlib import Path

from diffusae.activations.schema import GROUPS, Group
from diffusae.errors import UserError
from diffusae.parsing import read_json, reading

logger = logging.getLogger(__name__)


def journal_path(root: Path, index: int) -> Path:
    """Where the journal of group `index` lies."""
    return root / GROUPS / f"{index:06d}.json"


def read_journals(root: Path) -> dict[int, Group]:
    """The groups that have a journal, by index; a damaged journal is logged and counts as none."""
    found = {}
    for path in sorted((root / GROUPS).glob("[0-9]*.json")):
        try:
            found[int(path.stem)] = _read(path)
        except (UserError, FileNotFoundError, ValueError) as error:
            logger.warning("%s", error)
    return found


def _read(path: Path) -> Group:
    remedy = "its group counts as unfinished"
    value = read_json(path, remedy=remedy)
    with reading(path, remedy=remedy):
        group = Group.from_json(value)
        if path.name != journal_path(path, group.index).name:
            raise UserError(f"it is the journal of group {group.index}")
        return group


def size_of(path: Path) -> int | None:
    """A file's size in bytes, None where there is no such file."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None
