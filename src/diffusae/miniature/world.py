"""The synthetic world: random captioned scenes, drawn with exact masks, all from a seed."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from diffusae.miniature.shapes import NOUNS, placed_distance
from diffusae.miniature.styles import COLOURS, GRAINS, STYLES, TONES, add_grain, background

SIZE = 64
"""Side of a picture in pixels."""

_NOUNS = np.array(NOUNS)
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
    """A drawn scene: `picture` uint8 [SIZE, SIZE, 3]; `masks`: noun -> bool [SIZE, SIZE]."""

    picture: np.ndarray
    masks: dict[str, np.ndarray]


def sample_scene(rng: np.random.Generator) -> Scene:
    """Draw style, tone, grain and one to three different objects, apart and wholly inside."""
    count = 1 + int(_UP_TO.searchsorted(rng.random(), side="right"))
    nouns = rng.choice(_NOUNS, size=count, replace=False)
    things: list[Thing] = []
    while len(things) < count:
        things = _place(nouns, rng)
    return Scene(
        things=tuple(things),
        style=_drawn(STYLES, rng),
        tone=_drawn(TONES, rng),
        grain=_drawn(GRAINS, rng),
        seed=int(rng.integers(2**31)),
    )


def _drawn(names: Collection[str], rng: np.random.Generator) -> str:
    """One of the names: the one that `rng.choice` would draw, in a tenth of its time."""
    return list(names)[int(rng.integers(len(names)))]


def _place(nouns: np.ndarray, rng: np.random.Generator, attempts: int = 40) -> list[Thing]:
    """Place the objects one after the other; fewer are returned where there is no room."""
    smallest, largest = {1: (12.0, 20.0), 2: (11.5, 17.0), 3: (11.0, 14.0)}[len(nouns)]
    things: list[Thing] = []
    for noun in nouns:
        for _ in range(attempts):
            radius = rng.uniform(smallest, largest)
            x, y = (rng.uniform(radius + 1, SIZE - radius - 1) for _ in "xy")
            if all(math.hypot(x - o.x, y - o.y) > 0.95 * (radius + o.radius) for o in things):
                colour = _drawn(COLOURS, rng)
                angle, mirrored = math.radians(rng.uniform(-12, 12)), bool(rng.random() < 0.5)
                place = (x, y, radius, angle, mirrored)
                things.append(Thing(str(noun), colour, *place))
                break
    return things


def render(scene: Scene) -> Render:
    """Draw a scene. Masks depend on the objects alone: style, tone and grain never move an edge."""
    rng = np.random.default_rng(scene.seed)
    canvas = background(SIZE, scene.tone, rng)
    masks: dict[str, np.ndarray] = {}
    for thing in scene.things:
        distance = placed_distance(
            thing.noun,
            size=SIZE,
            centre=(thing.x, thing.y),
            radius=thing.radius,
            angle=thing.angle,
            mirrored=thing.mirrored,
        )
        colour = np.asarray(COLOURS[thing.colour], np.float32)
        canvas = STYLES[scene.style](canvas, distance, colour, rng)
        masks[thing.noun] = distance < 0
    # Later objects cover earlier ones.
    for earlier, thing in enumerate(scene.things):
        for later in scene.things[earlier + 1 :]:
            masks[thing.noun] = masks[thing.noun] & ~masks[later.noun]
    picture = np.clip(add_grain(canvas, scene.grain), 0, 1)
    return Render(picture=np.round(picture * 255).astype(np.uint8), masks=masks)
