"""Sources of given pictures, and the assignment of pictures to splits."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import UInt8

Listed = tuple[str, str | None, dict[str, str]]
"""(name, the source's own split or None, {task: class name})"""


class PictureSource(Protocol):
    """A source of given pictures. Listing them reads no pixels."""

    drawn: bool
    """Whether pictures are drawn when they are read, so that decoding cannot fail."""

    def listed(self) -> Sequence[Listed]:
        """All pictures, always in the same order."""
        ...

    def tasks(self) -> dict[str, list[str]]:
        """{task: class names in the order of their ids}."""
        ...

    def picture(self, place: int) -> UInt8[np.ndarray, "height width 3"]:
        """The pixels of a listed picture; `Undecodable` if that fails."""
        ...

    def fingerprint(self) -> str:
        """A text that changes with the pictures, computed without reading them all."""
        ...


@dataclass(frozen=True)
class GivenPicture:
    """One picture of a study: its place in the source's list, name, split, and {task: class}."""

    place: int
    name: str
    split: str
    labels: Mapping[str, str]


def assign_splits(
    listed: Iterable[Listed],
    *,
    counts: Mapping[str, int | None],
    split_of: Callable[[str], str],
    seed: int,
) -> list[GivenPicture]:
    """The pictures by split, in the order of `counts`, at most `counts[split]` of one (None: all).

    A picture without a split of its source gets the split of its name. Such pictures are sorted by
    the SHA-256 of seed and name, so that a few pictures cover many classes. Sources with their own
    splits keep their order.
    """
    keyed: list[tuple[str, GivenPicture]] = []
    for place, (name, split, labels) in enumerate(listed):
        key = "" if split is not None else hashlib.sha256(f"{seed}\n{name}".encode()).hexdigest()
        keyed.append((key, GivenPicture(place, name, split or split_of(name), labels)))
    keyed.sort(key=lambda pair: pair[0])
    taken: Counter[str] = Counter()
    by_split: dict[str, list[GivenPicture]] = {split: [] for split in counts}
    for _, picture in keyed:
        most = counts.get(picture.split, 0)
        if most is None or taken[picture.split] < most:
            taken[picture.split] += 1
            by_split[picture.split].append(picture)
    return [picture for pictures in by_split.values() for picture in pictures]


def in_order(names: Iterable[str]) -> list[str]:
    """Class names in the order of their ids: numeric if all are whole numbers, else alphabetic."""
    distinct = set(names)
    numeric = all(name.isdecimal() for name in distinct)
    return sorted(distinct, key=int) if numeric else sorted(distinct)


def listing_hash(lines: Iterable[str]) -> str:
    """A hash of a listing (16 hex digits)."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()[:16]
