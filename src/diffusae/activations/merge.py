"""Merging the parts of one collection that tasks have written to their own directories."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffusae.activations.journal import journal_path, read_journals, read_note, size_of
from diffusae.activations.parts import missing_in_words, parts_at
from diffusae.activations.places import require_inside
from diffusae.activations.schema import Group
from diffusae.activations.writer import COLLECTION, differences
from diffusae.errors import UserError, together
from diffusae.files import TEMPORARY_SUFFIX, flush_directory, sha256_of, write_sealed

logger = logging.getLogger(__name__)


def merge_parts(root: Path | str, sources: Sequence[Path | str], *, groups: int) -> int:
    """Bring all groups of `sources` into `root` and check their hashes; return the number brought.

    Shards become hard links on the same disk, copies otherwise. Sources do not change. Groups that
    `root` has already are skipped, so a stopped merge can be continued. Everything except the
    hashes is checked before anything is written.

    Args:
        root: the collection's directory; the caller holds its lock.
        sources: directories of parts, with their `groups/collection.json`.
        groups: the number of groups of the whole collection.

    Raises:
        UserError: sources belong to different collections, a group lies in two sources, is missing
            or beyond the last, or a shard differs from its journal in size or hash. Faults of one
            kind come in one error.
    """
    root, places = Path(root), [Path(source) for source in sources]
    for place in (root, *places):
        require_inside(place)
    described = {place: _collection(place) for place in places}
    if (root / COLLECTION).exists():
        described = {root: _collection(root), **described}
    _require_equal(described)
    offered: dict[int, tuple[Path, Group]] = {}
    faults = []
    for place in places:
        for index, group in read_journals(place).items():
            if index in offered:
                faults.append(
                    f"group {index} lies in {offered[index][0]} and in {place}; name one of them"
                )
            elif index >= groups:
                faults.append(
                    f"group {index} of {place} is beyond the {groups} groups of this study"
                )
            offered.setdefault(index, (place, group))
    present = read_journals(root)
    for index in sorted(present.keys() & offered.keys()):
        if present[index] != offered[index][1]:
            faults.append(
                f"group {index} has other contents in {root} than in {offered[index][0]}; remove "
                "one"
            )
    together(faults)
    if missing := sorted(set(range(groups)) - present.keys() - offered.keys()):
        parts = {part for place in (root, *places) for part in parts_at(place)}
        raise UserError(
            f"{len(missing)} of {groups} groups are missing ({missing_in_words(missing, parts)});"
            " collect them, then merge again"
        )
    if not (root / COLLECTION).exists():
        write_sealed(root / COLLECTION, described[places[0]])
    coming = {index: entry for index, entry in offered.items() if index not in present}
    for index, (place, group) in sorted(coming.items()):
        for shard in group.shards:
            _bring(place / shard.path, root / shard.path, bytes_=shard.bytes, sha256=shard.sha256)
        write_sealed(journal_path(root, index), group.to_json())
    return len(coming)


def _collection(place: Path) -> Any:
    try:
        return read_note(place / COLLECTION, remedy="collect this part again")
    except FileNotFoundError:
        raise UserError(
            f"{place} holds no part of a collection ({COLLECTION} is missing); check collect.merge"
        ) from None


def _require_equal(described: dict[Path, Any]) -> None:
    first, *others = described
    for other in others:
        if lines := differences(described[first], described[other]):
            raise UserError(
                f"{first} and {other} hold parts of different collections; they differ in:{lines}\n"
                "merge parts of one study only"
            )


def _bring(source: Path, target: Path, *, bytes_: int, sha256: str) -> None:
    if size_of(source) != bytes_:
        raise UserError(
            f"{source} has {size_of(source)} bytes, its journal says {bytes_}; collect this part "
            "again"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f"{target.name}.{os.getpid()}{TEMPORARY_SUFFIX}")
    temporary.unlink(missing_ok=True)
    try:
        try:
            os.link(source, temporary)
        except OSError:  # another disk, or a file system without links
            shutil.copyfile(source, temporary)
        if (digest := sha256_of(temporary)) != sha256:
            raise UserError(
                f"{source} has SHA-256 {digest}, its journal says {sha256}; collect this part again"
            )
        os.replace(temporary, target)
        flush_directory(target.parent)
    finally:
        temporary.unlink(missing_ok=True)
