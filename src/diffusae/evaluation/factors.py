"""What annotated pictures show, as true or false for every value of every factor.

Local factors hold at positions: a noun, a part of the ground (stuff), the colour of an object, the
quarter of the picture that an object lies in (place), or any object. A position has a value where
the value's masks cover at least half of it. Whole factors, such as style, hold for a picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int

PLACES = ("top left", "top right", "bottom left", "bottom right")
OBJECT = ("object", "any object")


@dataclass(frozen=True)
class Seen:
    """What an annotator saw in one picture: noun -> mask, noun -> colour, factor -> value."""

    masks: Mapping[str, Any] = field(default_factory=dict)
    colours: Mapping[str, str] = field(default_factory=dict)
    factors: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Labels:
    """Which values hold where.

    Attributes:
        columns: (factor, value) of each column.
        holds: in every picture, at every place: the grid's positions, or 1 for the whole picture.
    """

    columns: tuple[tuple[str, str], ...]
    holds: Bool[np.ndarray, "pictures places columns"]

    @property
    def flat(self) -> Bool[np.ndarray, "rows columns"]:
        """One row a place, picture by picture."""
        pictures, places, columns = self.holds.shape
        return self.holds.reshape(pictures * places, columns)

    @property
    def pictures(self) -> Int[np.ndarray, " columns"]:
        """How many pictures show each value."""
        return self.holds.any(axis=1).sum(axis=0)

    def only(self, kept: Sequence[int]) -> Labels:
        """These columns alone."""
        return Labels(tuple(self.columns[i] for i in kept), self.holds[:, :, list(kept)])

    def beside(self, other: Labels) -> Labels:
        """The columns of both; they have the same pictures and places."""
        holds = np.concatenate([self.holds, other.holds], axis=2)
        return Labels(self.columns + other.columns, holds)

    @staticmethod
    def joined(splits: Sequence[Labels]) -> Labels:
        """The pictures of several splits, which have the same columns."""
        return Labels(splits[0].columns, np.concatenate([split.holds for split in splits]))


def local_labels(
    pictures: Sequence[Seen],
    grid: tuple[int, int],
    *,
    nouns: Sequence[str],
    stuff: Sequence[str],
    colours: Sequence[str],
) -> Labels:
    """The local factors at every position; `stuff`: nouns that are parts of the ground."""
    columns = [*(("noun", name) for name in nouns), *(("stuff", name) for name in stuff)]
    columns += [*(("colour", name) for name in colours), *(("place", name) for name in PLACES)]
    columns.append(OBJECT)
    place = {column: index for index, column in enumerate(columns)}
    holds = np.zeros((len(pictures), grid[0] * grid[1], len(columns)), dtype=bool)
    quarters = _quarters(grid)
    for picture, seen in zip(holds, pictures, strict=True):
        by_column: dict[tuple[str, str], np.ndarray] = {}

        def cover(column: tuple[str, str], mask: np.ndarray, into: Any = by_column) -> None:
            into[column] = into[column] | mask if column in into else mask

        for noun, mask in seen.masks.items():
            mask = np.asarray(mask, dtype=bool)
            if noun in stuff:
                cover(("stuff", noun), mask)
                continue
            cover(("noun", noun), mask)
            cover(OBJECT, mask)
            if noun in seen.colours:
                cover(("colour", seen.colours[noun]), mask)
        known = [column for column in by_column if column in place]
        if known:
            masks = torch.from_numpy(np.stack([by_column[column] for column in known]))
            share = F.adaptive_avg_pool2d(masks[:, None].float(), grid)[:, 0].flatten(1)
            picture[:, [place[column] for column in known]] = (share >= 0.5).numpy().T
        for name, quarter in quarters.items():
            picture[:, place["place", name]] = picture[:, place[OBJECT]] & quarter
    return Labels(tuple(columns), holds)


def whole_labels(pictures: Sequence[Seen], factors: Mapping[str, Sequence[str]]) -> Labels:
    """The factors of whole pictures; `factors`: each with its values."""
    columns = tuple((name, value) for name, values in factors.items() for value in values)
    holds = [[seen.factors.get(name) == value for name, value in columns] for seen in pictures]
    return Labels(columns, np.array(holds, dtype=bool).reshape(len(pictures), 1, len(columns)))


def children(labels: Labels) -> list[tuple[tuple[str, str], Labels]]:
    """The world's hierarchy: every parent with its children, which hold where the parent does.

    A noun has its colours as children (fish: red fish, ...), and any object has the nouns.
    """
    of_factor = {
        factor: [i for i, (name, _) in enumerate(labels.columns) if name == factor]
        for factor in ("noun", "colour")
    }
    hierarchy: list[tuple[tuple[str, str], Labels]] = [(OBJECT, labels.only(of_factor["noun"]))]
    for noun in of_factor["noun"]:
        coloured = labels.only(of_factor["colour"])
        name = labels.columns[noun][1]
        columns = tuple(("coloured noun", f"{colour} {name}") for _, colour in coloured.columns)
        holds = coloured.holds & labels.holds[:, :, [noun]]
        hierarchy.append((labels.columns[noun], Labels(columns, holds)))
    return hierarchy


def _quarters(grid: tuple[int, int]) -> dict[str, Bool[np.ndarray, " P"]]:
    """The positions of each quarter; the middle row of an odd grid belongs to the bottom."""
    down, across = (np.arange(size) >= size // 2 for size in grid)
    rows, columns = np.repeat(down, grid[1]), np.tile(across, grid[0])
    return {
        "top left": ~rows & ~columns,
        "top right": ~rows & columns,
        "bottom left": rows & ~columns,
        "bottom right": rows & columns,
    }
