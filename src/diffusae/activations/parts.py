"""A collection written by several tasks: the groups of a task, and the missing groups.

Every group has its own shards and journal, so tasks in one directory share no file.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from diffusae.activations.schema import GROUPS
from diffusae.errors import UserError

PARTS = f"{GROUPS}/parts"


@dataclass(frozen=True)
class Part:
    """Task `index` of `count`. It writes the groups with group % count == index.

    So every task gets equally many groups of a split (or one more), which matters since the
    pictures of some splits are decoded and cost more time.

    Raises:
        UserError: `index` is outside [0, count), or `count` is below 1.
    """

    index: int
    count: int

    def __post_init__(self) -> None:
        if self.count < 1 or not 0 <= self.index < self.count:
            last = f"0/{self.count} ... {self.count - 1}/{self.count}" if self.count > 0 else "0/1"
            raise UserError(f"collect.shard={self} must lie in {last}: tasks count from 0")

    @classmethod
    def parse(cls, text: object) -> Self:
        """Read "i/n". Raises `UserError` for anything else."""
        match = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", str(text))
        if match is None:
            raise UserError(
                f"collect.shard={text} must be i/n, such as 0/4 for the first of four tasks, or "
                "null for one task"
            )
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def owns(self, group: int) -> bool:
        """Whether this task writes the group."""
        return group % self.count == self.index

    def directory(self, root: Path) -> Path:
        """The directory of this task's lock and run.json."""
        return root / PARTS / f"{self.index}-of-{self.count}"


def parts_at(root: Path) -> dict[Part, Path]:
    """All tasks that have worked in `root`, with their directories."""
    parts = {}
    for path in sorted((root / PARTS).glob("*-of-*")):
        index, _, count = path.name.partition("-of-")
        if index.isdecimal() and count.isdecimal() and int(index) < int(count):
            parts[Part(int(index), int(count))] = path
    return parts


def missing_in_words(missing: Collection[int], parts: Collection[Part]) -> str:
    """The missing groups in words; with the tasks that write them if all tasks have one count."""
    counts = {part.count for part in parts}
    if len(counts) != 1:
        return f"groups {_short(sorted(missing))}"
    count = counts.pop()
    owners = sorted({group % count for group in missing})
    return "; ".join(
        f"collect.shard={owner}/{count}: groups"
        f" {_short([g for g in sorted(missing) if g % count == owner])}"
        for owner in owners
    )


def _short(numbers: list[int], most: int = 8) -> str:
    shown = ", ".join(map(str, numbers[:most]))
    return shown if len(numbers) <= most else f"{shown}, ... ({len(numbers)} in all)"
