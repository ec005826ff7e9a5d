"""The synthetic world: random captioned scenes, drawn with exact masks, all from a seed."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from diffusae.miniature.shapes import NOUNS as SILHOUETTES
from diffusae.miniature.shapes import placed_distance
from diffusae.miniature.styles import COLOURS, GRAINS, STYLES, TONES, add_grain, background

SIZE = 64
"""Side of a picture in pixels."""

NOUNS = SILHOUETTES[:12]
"""The objects of the world of shapes."""
_UP_TO = np.array([0.3, 0.7, 1.0])
"""The probability of at most one, two and three objects."""


@dataclass(frozen=True)
class Thing:
    """One object of a scene: its name and its place; lengths in pixels, angle in radians."""

    noun: str
    colour: str
    x: float
    y: float
    radius: float
    angle: float
    mirrored: bool

    def distance(self) -> np.ndarray:
        """Signed distance in pixels to the object's edge, `[SIZE, SIZE]`, negative inside."""
        return placed_distance(
            self.noun,
            size=SIZE,
            centre=(self.x, self.y),
            radius=self.radius,
            angle=self.angle,
            mirrored=self.mirrored,
        )


@dataclass(frozen=True)
class Scene:
    """The objects of a picture and how it is drawn; `seed` fixes blotches and tiles."""

    things: tuple[Thing, ...]
    style: str
    tone: str
    grain: str
    seed: int


@dataclass(frozen=True)
class Render:
    """A drawn scene.

    Attributes:
        picture: uint8 [SIZE, SIZE, 3].
        masks: noun -> bool [SIZE, SIZE]: all its objects, or the part of the ground.
        instances: one mask an object, in the scene's order.
    """

    picture: np.ndarray
    masks: dict[str, np.ndarray]
    instances: tuple[np.ndarray, ...]

    @classmethod
    def of(
        cls,
        canvas: np.ndarray,
        things: Sequence[Thing],
        instances: Sequence[np.ndarray],
        ground: Mapping[str, np.ndarray],
    ) -> Render:
        """From a canvas in [0, 1], the objects' visible masks, and those of the ground's parts."""
        masks: dict[str, np.ndarray] = {}
        for thing, mask in zip(things, instances, strict=True):
            masks[thing.noun] = masks.get(thing.noun, np.zeros_like(mask)) | mask
        picture = np.round(np.clip(canvas, 0, 1) * 255).astype(np.uint8)
        return cls(picture, masks | dict(ground), tuple(instances))


def sample_scene(rng: np.random.Generator) -> Scene:
    """Draw style, tone, grain and one to three different objects, apart and wholly inside."""
    count = 1 + int(_UP_TO.searchsorted(rng.random(), side="right"))
    nouns = rng.choice(np.array(NOUNS), size=count, replace=False)
    return Scene(
        things=place_things(nouns, rng),
        style=drawn_name(STYLES, rng),
        tone=drawn_name(TONES, rng),
        grain=drawn_name(GRAINS, rng),
        seed=int(rng.integers(2**31)),
    )


def drawn_name(names: Collection[str], rng: np.random.Generator) -> str:
    """One of the names: the one that `rng.choice` would draw, in a tenth of its time."""
    return list(names)[int(rng.integers(len(names)))]


def place_things(nouns: Sequence[str] | np.ndarray, rng: np.random.Generator) -> tuple[Thing, ...]:
    """Objects of one to three nouns with random colours, apart and wholly inside."""
    things: list[Thing] = []
    while len(things) < len(nouns):
        things = _place(nouns, rng)
    return tuple(things)


def _place(
    nouns: Sequence[str] | np.ndarray, rng: np.random.Generator, attempts: int = 40
) -> list[Thing]:
    """Place the objects one after the other; fewer are returned where there is no room."""
    smallest, largest = {1: (12.0, 20.0), 2: (11.5, 17.0), 3: (11.0, 14.0)}[len(nouns)]
    things: list[Thing] = []
    for noun in nouns:
        for _ in range(attempts):
            radius = rng.uniform(smallest, largest)
            x, y = (rng.uniform(radius + 1, SIZE - radius - 1) for _ in "xy")
            if all(math.hypot(x - o.x, y - o.y) > 0.95 * (radius + o.radius) for o in things):
                colour = drawn_name(COLOURS, rng)
                angle, mirrored = math.radians(rng.uniform(-12, 12)), bool(rng.random() < 0.5)
                place = (x, y, radius, angle, mirrored)
                things.append(Thing(str(noun), colour, *place))
                break
    return things


def visible(masks: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The masks without what later ones cover."""
    return [
        mask & ~np.any([np.zeros_like(mask), *masks[place + 1 :]], axis=0)
        for place, mask in enumerate(masks)
    ]


def render(scene: Scene) -> Render:
    """Draw a scene. Masks depend on the objects alone: style, tone and grain never move an edge."""
    rng = np.random.default_rng(scene.seed)
    canvas = background(SIZE, scene.tone, rng)
    distances = [thing.distance() for thing in scene.things]
    for thing, distance in zip(scene.things, distances, strict=True):
        colour = np.asarray(COLOURS[thing.colour], np.float32)
        canvas = STYLES[scene.style](canvas, distance, colour, rng)
    instances = visible([distance < 0 for distance in distances])
    return Render.of(add_grain(canvas, scene.grain), scene.things, instances, {})
