"""Bringing the parts of one collection together that tasks have written to directories of their
own."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffusae.activations.journal import journal_path, read_journals, read_note, size_of
from diffusae.activations.parts import parts_at, told_missing
from diffusae.activations.places import require_inside
from diffusae.activations.schema import Group
from diffusae.activations.writer import COLLECTION, differences
from diffusae.errors import UserError, together
from diffusae.files import TEMPORARY_SUFFIX, flush_directory, sha256_of, write_sealed

logger = logging.getLogger(__name__)


def merge_parts(root: Path | str, sources: Sequence[Path | str], *, groups: int) -> int:
    """Bring every group of `sources` into `root`, hashed on the way; return how many came.

    Shards become hard links where both lie on one disk, copies elsewhere; the sources stay as they
    are. A group that `root` holds already with the same hashes stays, so a merge that was stopped
    goes on. Nothing is written before all is checked but the hashes.

    Args:
        root: the collection's directory; the caller holds its lock.
        sources: directories of parts, each with its `groups/collection.json`.
        groups: how many groups the whole collection has.

    Raises:
        UserError: sources that collect something else (both values shown), a group in two of them,
            groups missing or beyond the last, a shard whose size or hash is not its journal's. All
            of a kind in one error.
    """
    root, places = Path(root), [Path(source) for source in sources]
    for place in (root, *places):
        require_inside(place)
    told = {place: _collection(place) for place in places}
    if (root / COLLECTION).exists():
        told = {root: _collection(root), **told}
    _require_equal(told)
    found: dict[int, tuple[Path, Group]] = {}
    faults = []
    for place in places:
        for index, group in read_journals(place).items():
            if index in found:
                faults.append(
                    f"group {index} lies in {found[index][0]} and in {place}; name one of them"
                )
            elif index >= groups:
                faults.append(
                    f"group {index} of {place} is beyond the {groups} groups of this study"
                )
            found.setdefault(index, (place, group))
    here = read_journals(root)
    for index in sorted(here.keys() & found.keys()):
        if here[index] != found[index][1]:
            faults.append(
                f"group {index} lies in {root} with other contents than in {found[index][0]};"
                " remove one"
            )
    together(faults)
    if missing := sorted(set(range(groups)) - here.keys() - found.keys()):
        parts = {part for place in (root, *places) for part in parts_at(place)}
        raise UserError(
            f"{len(missing)} of {groups} groups are missing ({told_missing(missing, parts)});"
            " collect them, then merge again"
        )
    if not (root / COLLECTION).exists():
        write_sealed(root / COLLECTION, told[places[0]])
    coming = {index: each for index, each in found.items() if index not in here}
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
            f"{place} holds no part of a collection ({COLLECTION} is not there); check"
            " collect.merge"
        ) from None


def _require_equal(told: dict[Path, Any]) -> None:
    first, *others = told
    for other in others:
        if lines := differences(told[first], told[other]):
            raise UserError(
                f"{first} and {other} hold parts of different collections; they differ in:{lines}\n"
                "merge parts of one study only"
            )


def _bring(source: Path, target: Path, *, bytes_: int, sha256: str) -> None:
    if size_of(source) != bytes_:
        raise UserError(
            f"{source} has {size_of(source)} bytes, its journal says {bytes_}; collect this part"
            " again"
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
                f"{source} has the SHA-256 {digest}, its journal says {sha256}; collect this part"
                " again"
            )
        os.replace(temporary, target)
        flush_directory(target.parent)
    finally:
        temporary.unlink(missing_ok=True)
