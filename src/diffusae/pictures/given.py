"""What a source of given pictures is, and how its pictures are dealt out to splits."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import UInt8

Listed = tuple[str, str | None, dict[str, str]]
"""(name, split or None where the source has none of its own, {task: class name})"""


class PictureSource(Protocol):
    """Where given pictures come from. Listing them reads no pixels."""

    drawn: bool
    """Whether the pictures are made on the spot, so that none can fail to decode."""

    def listed(self) -> Sequence[Listed]:
        """Every picture, always in the same order."""
        ...

    def tasks(self) -> dict[str, list[str]]:
        """{task: its class names in the order of their ids}."""
        ...

    def picture(self, place: int) -> UInt8[np.ndarray, "height width 3"]:
        """The pixels of a listed picture; `Undecodable` where that fails."""
        ...

    def fingerprint(self) -> str:
        """What decides the pictures, without reading them all."""
        ...


@dataclass(frozen=True)
class GivenPicture:
    """One picture of a study: `place` in the source's list, its name, its split and its class in
    each task it has one in."""

    place: int
    name: str
    split: str
    labels: Mapping[str, str]


def dealt(
    listed: Iterable[Listed],
    *,
    counts: Mapping[str, int | None],
    split_of: Callable[[str], str],
    seed: int,
) -> list[GivenPicture]:
    """The pictures split by split, in the order of `counts`, at most so many of each (None: all).

    A picture whose source gives no split gets that of its name. Such pictures come in the order of
    the SHA-256 of seed and name, so that a few of them are a few of every class; a source with
    splits of its own keeps its order.
    """
    found: list[tuple[str, GivenPicture]] = []
    for place, (name, split, labels) in enumerate(listed):
        key = "" if split is not None else hashlib.sha256(f"{seed}\n{name}".encode()).hexdigest()
        found.append((key, GivenPicture(place, name, split or split_of(name), labels)))
    found.sort(key=lambda each: each[0])
    taken: Counter[str] = Counter()
    by_split: dict[str, list[GivenPicture]] = {split: [] for split in counts}
    for _, picture in found:
        most = counts.get(picture.split, 0)
        if most is None or taken[picture.split] < most:
            taken[picture.split] += 1
            by_split[picture.split].append(picture)
    return [picture for pictures in by_split.values() for picture in pictures]


def in_order(names: Iterable[str]) -> list[str]:
    """Class names in the order of their ids: as numbers where all are whole numbers, else
    alphabetically."""
    distinct = set(names)
    return (
        sorted(distinct, key=int)
        if all(name.isdecimal() for name in distinct)
        else sorted(distinct)
    )


def listing_hash(lines: Iterable[str]) -> str:
    """One hash over a listing."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()[:16]
