"""Captions of a world for studies, of those that its miniature leaves out in training: wordings
(`world=shapes`) or combinations of noun, colour and style (`world=scenes`).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

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
            (split, _caption(self.world.name, FIRST_SCENE + place))
            for place, split in enumerate(splits)
        ]


@cache
def _caption(world: str, seed: int) -> str:
    """A scene's caption, drawn once in a process: it takes ten scenes to find one that is held
    out, and every metric of every cell asks for all captions.
    """
    return world_of(world).captioned_scene(seed, held_out=True)[1]
