"""Storing fewer positions per picture, rather than fewer pictures.

Only training splits are thinned. Maps, labels and composition need all positions of other splits.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from diffusae.errors import UserError, together


def most_positions(
    *, positions_per_image: int | None, max_vectors: int | None, images: int
) -> int | None:
    """The most positions that a picture may keep in any stream. None: all.

    The limit `max_vectors` of a stream is divided equally by its `images`, rounded down.

    Raises:
        UserError: a number is below 1, or a picture would keep no position.
    """
    faults = [
        f"{name}={value} must be at least 1; raise it, or set it to null to keep everything"
        for name, value in (
            ("positions_per_image", positions_per_image),
            ("max_vectors", max_vectors),
        )
        if value is not None and value < 1
    ]
    if not faults and max_vectors is not None and max_vectors < images:
        faults.append(
            f"max_vectors={max_vectors} is below the {images} training pictures, but a picture "
            "keeps at least one position; raise activations.max_vectors, or lower "
            "prompts.counts.train"
        )
    together(faults)
    limits = [] if positions_per_image is None else [positions_per_image]
    if max_vectors is not None and images:
        limits.append(max_vectors // images)
    return min(limits, default=None)


@dataclass(frozen=True, kw_only=True)
class Subsampling:
    """The positions that pictures of some splits keep, drawn without replacement.

    They depend only on the seed, the picture's id and the grid's size. So streams of one grid keep
    the same positions, and a smaller draw is part of a larger one.

    Args:
        splits: the splits that are thinned. Others keep whole grids.
        positions_per_image: kept positions per picture; all if the grid has fewer.
        seed: the seed of the draw.

    Raises:
        UserError: `positions_per_image` is below 1, or `splits` is empty.
    """

    splits: tuple[str, ...]
    positions_per_image: int
    seed: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "splits", tuple(self.splits))
        if self.positions_per_image < 1:
            raise UserError(
                f"positions_per_image={self.positions_per_image} must be at least 1; raise it"
            )
        if not self.splits:
            raise UserError("a subsampling names no splits; name those that train, or leave it out")

    def kept(self, split: str, positions: int) -> int:
        """The number of a grid's `positions` that a picture of `split` keeps."""
        return min(positions, self.positions_per_image) if split in self.splits else positions

    def draw(self, image_id: str, positions: int) -> Int[np.ndarray, " kept"]:
        """The kept positions of a picture in a thinned split, ascending.

        They are those with the smallest SHA-256 of `<seed>/<image id>/<position>`: a hash, so that
        any program of any version can compute them.
        """
        digests = [
            (hashlib.sha256(f"{self.seed}/{image_id}/{position}".encode()).digest(), position)
            for position in range(positions)
        ]
        kept = sorted(digests)[: self.positions_per_image]
        return np.array(sorted(position for _, position in kept))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; its entries are the constructor's arguments."""
        return {**asdict(self), "splits": list(self.splits)}
