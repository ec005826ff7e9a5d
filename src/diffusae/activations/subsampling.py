"""Which positions of a picture are stored: fewer of them a picture, rather than fewer pictures.

Only splits that train are thinned. Maps, labels and composition need every position of the others.
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
    """The most positions that one picture may keep in any stream; None: all.

    The cap `max_vectors` of a stream is shared equally by its `images`, rounded down: no picture is
    left out.

    Raises:
        UserError: a number below 1, or a cap that leaves a picture without a position.
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
            f"max_vectors={max_vectors} is below the {images} training pictures, each of which"
            " keeps at least one position; raise activations.max_vectors, or lower"
            " prompts.counts.train"
        )
    together(faults)
    limits = [] if positions_per_image is None else [positions_per_image]
    if max_vectors is not None and images:
        limits.append(max_vectors // images)
    return min(limits, default=None)


@dataclass(frozen=True, kw_only=True)
class Subsampling:
    """The positions that the pictures of some splits keep, drawn without replacement.

    A picture's positions depend on the seed, its id and the size of the grid alone: not on batches,
    groups, order or timestep, so streams of one grid keep the same places. Fewer positions are a
    part of more.

    Args:
        splits: the splits that are thinned; all others keep whole grids.
        positions_per_image: positions kept a picture, or all where the grid has no more.
        seed: of the draw.

    Raises:
        UserError: `positions_per_image` or `splits` empty.
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
        """How many of a grid's `positions` a picture of `split` keeps."""
        return min(positions, self.positions_per_image) if split in self.splits else positions

    def draw(self, image_id: str, positions: int) -> Int[np.ndarray, " kept"]:
        """The kept positions of a picture in a thinned split, ascending: those with the least
        SHA-256 of `<seed>/<image id>/<position>`. A hash, so that any program can tell them, in
        whatever version."""
        digests = [
            (hashlib.sha256(f"{self.seed}/{image_id}/{position}".encode()).digest(), position)
            for position in range(positions)
        ]
        return np.array(
            sorted(position for _, position in sorted(digests)[: self.positions_per_image])
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; its entries are the constructor's arguments."""
        return {**asdict(self), "splits": list(self.splits)}
