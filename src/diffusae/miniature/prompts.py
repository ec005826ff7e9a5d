"""Captions of a world for studies, of those that its miniature leaves out in training: wordings
(`world=shapes`) or combinations of noun, colour and style (`world=scenes`).
"""

from __future__ import annotations

from collections.abc import Mapping

from diffusae.miniature.worlds import world_of

FIRST_SCENE = 100_000
"""Scene seeds of studies start here; the gate takes lower ones."""


class WorldPrompts:
    """Held-out captions of a world for the splits.

    Args:
        counts: split name -> the number of pictures.
        world: the name of the world.
    """

    def __init__(self, counts: Mapping[str, int], world: str = "shapes") -> None:
        self.counts, self.world = dict(counts), world_of(world)

    def texts(self) -> list[tuple[str, str]]:
        """Pairs of (split, caption); the same counts give the same captions."""
        splits = [split for split, count in self.counts.items() for _ in range(count)]
        return [
            (split, self.world.captioned_scene(FIRST_SCENE + place, held_out=True)[1])
            for place, split in enumerate(splits)
        ]
