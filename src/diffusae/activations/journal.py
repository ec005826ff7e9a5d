"""The journals of finished groups, as they lie on disk."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from diffusae.activations.places import place_faults
from diffusae.activations.schema import GROUPS, Group
from diffusae.errors import together

logger = logging.getLogger(__name__)


def journal_path(root: Path, index: int) -> Path:
    """Where the journal of group `index` lies."""
    return root / GROUPS / f"{index:06d}.json"


def read_journals(root: Path) -> dict[int, Group]:
    """The groups that have a journal, by index; a damaged journal is logged and counts as none."""
    found = {}
    for path in sorted((root / GROUPS).glob("[0-9]*.json")):
        try:
            group = Group.from_json(json.loads(path.read_text(encoding="utf-8")))
            together(place_faults([shard.to_json() for shard in group.shards], path))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            logger.warning("the journal %s is damaged (%r); its group counts as unfinished", path, error)
            continue
        found[group.index] = group
    return found


def size_of(path: Path) -> int | None:
    """A file's size in bytes, None where there is no such file."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None
