"""Pictures of the world as a source of given pictures, drawn on demand, with all labels known."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
from jaxtyping import UInt8

from diffusae.miniature.world import SIZE, Scene
from diffusae.miniature.worlds import world_of

FIRST_SCENE = 10_000_000
"""Scene seeds start here; those of prompts and of the miniature's own training are lower."""

PLACES = ("top_left", "top_right", "bottom_left", "bottom_right")
MOST_OBJECTS = 3


class WorldPictures:
    """Drawn scenes for the splits, of captions that the miniature leaves out in training.

    Args:
        counts: split name -> the number of pictures.
        world: the name of the world.
    """

    drawn = True

    def __init__(self, counts: Mapping[str, int], world: str = "shapes") -> None:
        self.counts, self.world = dict(counts), world_of(world)

    def listed(self) -> list[tuple[str, str | None, dict[str, str]]]:
        """Every picture with its split and its labels; the same counts give the same pictures."""
        splits = [split for split, count in self.counts.items() for _ in range(count)]
        return [
            (f"scene {FIRST_SCENE + place}", split, labels_of(scene_of(place, self.world.name)))
            for place, split in enumerate(splits)
        ]

    def tasks(self) -> dict[str, list[str]]:
        """{task: its classes}. Only pictures of one object have object, colour and place."""
        counts = [str(count) for count in range(1, MOST_OBJECTS + 1)]
        return {
            "object": list(self.world.nouns),
            "colour": list(self.world.colours),
            "place": list(PLACES),
            "count": counts,
            "style": list(self.world.factors["style"]),
        }

    def picture(self, place: int) -> UInt8[np.ndarray, "height width 3"]:
        """The drawn scene of a place in the list."""
        return self.world.render(scene_of(place, self.world.name)).picture

    def fingerprint(self) -> str:
        """The first scene and its world; all else follows from the counts."""
        of = "world" if self.world.name == "shapes" else f"world of {self.world.name}"
        return f"{of} from scene {FIRST_SCENE}"  # the first world had no name


@lru_cache(maxsize=1 << 16)
def scene_of(place: int, world: str = "shapes") -> Scene:
    """The scene of a place in the list."""
    return world_of(world).captioned_scene(FIRST_SCENE + place, held_out=True)[0]


def labels_of(scene: Scene) -> dict[str, str]:
    """{task: class} of a scene. Object, colour and place (quadrant) need a single object."""
    labels = {"count": str(len(scene.things)), "style": scene.style}
    if len(scene.things) == 1:
        (thing,) = scene.things
        row = "top" if thing.y < SIZE / 2 else "bottom"
        column = "left" if thing.x < SIZE / 2 else "right"
        labels |= {"object": thing.noun, "colour": thing.colour, "place": f"{row}_{column}"}
    return labels
