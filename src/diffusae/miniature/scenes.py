"""The world of filled scenes: objects before a ground whose parts have names and masks too."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from diffusae.miniature.grounds import GROUNDS, TONES, Edge, draw_edges, toned
from diffusae.miniature.patterns import (
    GRAIN_STRENGTH,
    GRAINS,
    STYLE_STRENGTH,
    STYLES,
    grain_pattern,
    style_pattern,
)
from diffusae.miniature.shapes import NOUNS
from diffusae.miniature.styles import COLOURS, blend, coverage
from diffusae.miniature.world import SIZE, Render, Scene, drawn_name, place_things, visible

TWINS = 0.2
"""The share of scenes with several objects in which two have the same noun."""
_UP_TO = np.array([0.3, 0.7, 1.0])
"""The probability of at most one, two and three objects."""


@dataclass(frozen=True)
class FilledScene(Scene):
    """A scene with a ground: its parts from top to bottom, and the edges between them."""

    parts: tuple[str, ...]
    edges: tuple[Edge, ...]


def sample_filled_scene(rng: np.random.Generator) -> FilledScene:
    """Draw a ground, one to three objects, and style, tone and grain."""
    count = 1 + int(_UP_TO.searchsorted(rng.random(), side="right"))
    nouns = rng.choice(np.array(NOUNS), size=count, replace=False)
    if count > 1 and rng.random() < TWINS:
        nouns[1] = nouns[0]
    parts = GROUNDS[int(rng.integers(len(GROUNDS)))]
    return FilledScene(
        things=place_things(nouns, rng),
        style=drawn_name(STYLES, rng),
        tone=drawn_name(TONES, rng),
        grain=drawn_name(GRAINS, rng),
        seed=int(rng.integers(2**31)),
        parts=parts,
        edges=draw_edges(parts, SIZE, rng),
    )


def render_filled_scene(scene: FilledScene) -> Render:
    """Draw a scene. Masks depend on objects and ground alone, as in the world of shapes.

    Every region, which is an object or a part of the ground, has its own place in the style's
    pattern. The ground alone has the tone.
    """
    rng, grain_rng = (np.random.default_rng([scene.seed, i]) for i in range(2))
    below = [edge.distance(SIZE) for edge in scene.edges]
    canvas = np.zeros((SIZE, SIZE, 3), np.float32)
    everywhere = np.full((SIZE, SIZE), np.inf, np.float32)
    pieces = [
        (inside, toned(part, scene.tone))
        for part, inside in zip(scene.parts, [everywhere, *below], strict=True)
    ]
    distances = [thing.distance() for thing in scene.things]
    pieces += [
        (-distance, np.asarray(COLOURS[thing.colour], np.float32))
        for thing, distance in zip(scene.things, distances, strict=True)
    ]
    for inside, colour in pieces:
        pattern = STYLE_STRENGTH * style_pattern(scene.style, SIZE, rng)
        canvas = blend(canvas, colour + pattern[..., None], coverage(inside))
    canvas = canvas + GRAIN_STRENGTH * grain_pattern(scene.grain, SIZE, grain_rng)[..., None]
    seen = visible([inside > 0 for inside, _ in pieces])
    ground, instances = seen[: len(scene.parts)], seen[len(scene.parts) :]
    return Render.of(canvas, scene.things, instances, dict(zip(scene.parts, ground, strict=True)))


def combination_held_out(scene: Scene) -> bool:
    """Whether an object's noun, colour and style form a combination that training leaves out.

    One colour in six is left out for every noun and style, so each pair of the three is trained.
    """
    colours, style = list(COLOURS), list(STYLES).index(scene.style)
    return any(
        (NOUNS.index(thing.noun) + colours.index(thing.colour) + style) % len(colours) == 0
        for thing in scene.things
    )
