"""Captions of a world for studies, of those that its miniature leaves out in training: wordings
(`world=shapes`) or combinations of noun, colour and style (`world=scenes`).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

from diffusae.errors import UserError, unknown
from diffusae.miniature.worlds import world_of
from diffusae.settings import is_number

FIRST_SCENE = 100_000
"""Scene seeds of studies start here; the gate takes lower ones."""


class WorldPrompts:
    """Held-out captions of a world for the splits.

    Args:
        counts: split name -> the number of pictures.
        world: the name of the world.
        one_object: split name -> the share of its captions that name one object and no other noun,
            spread evenly over the split; a split that is not named has as many as the world draws.
            Spatial interventions need them: it must be clear which object is to move.

    Raises:
        UserError: an unknown split, or a share outside [0, 1].
    """

    def __init__(
        self,
        counts: Mapping[str, int],
        world: str = "shapes",
        one_object: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        self.counts, self.world = dict(counts), world_of(world)
        self.one_object = dict(one_object)
        for split, share in self.one_object.items():
            if split not in self.counts:
                raise unknown("split in prompts.one_object:", split, self.counts)
            if not (is_number(share) and 0 <= share <= 1):
                raise UserError(
                    f"prompts.one_object.{split}={share} is a share: it must lie in [0, 1]"
                )

    def texts(self) -> list[tuple[str, str]]:
        """Pairs of (split, caption); the same counts give the same captions."""
        wanted = [
            (split, int((n + 1) * share) > int(n * share))
            for split, count in self.counts.items()
            for share in [self.one_object.get(split, 0.0)]
            for n in range(count)
        ]
        return [
            (split, _caption(self.world.name, FIRST_SCENE + place, one_object))
            for place, (split, one_object) in enumerate(wanted)
        ]


@cache
def _caption(world: str, seed: int, one_object: bool) -> str:
    """A scene's caption, drawn once in a process: it takes ten scenes to find one that is held
    out, and every metric of every cell asks for all captions.
    """
    return world_of(world).captioned_scene(seed, held_out=True, one_object=one_object)[1]
