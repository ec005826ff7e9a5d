"""The worlds that a miniature can be trained on: plain shapes, or scenes that fill the frame."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from diffusae.errors import unknown
from diffusae.miniature import grounds, patterns, shapes, styles, world
from diffusae.miniature.captions import caption, is_held_out, vocabulary
from diffusae.miniature.scenes import combination_held_out, render_filled_scene, sample_filled_scene
from diffusae.miniature.world import Render, Scene


@dataclass(frozen=True)
class Names:
    """The names of what a picture can show.

    Attributes:
        nouns: of objects.
        stuff: nouns of the ground's parts; empty where the ground has no parts.
        colours: of objects.
        factors: style, tone and grain with their values, in the order of an annotation's scores.
    """

    nouns: tuple[str, ...]
    stuff: tuple[str, ...]
    colours: tuple[str, ...]
    factors: Mapping[str, tuple[str, ...]]

    @property
    def labels(self) -> tuple[str, ...]:
        """All nouns that have masks."""
        return self.nouns + self.stuff


@dataclass(frozen=True)
class World(Names):
    """What scenes hold, how they are drawn, and which of them training leaves out.

    Attributes:
        sample: draws a scene at random.
        render: draws its picture.
        left_out: of a scene and its caption: whether training never sees it.
        grain_named: the share of captions that name the grain.
    """

    name: str
    sample: Callable[[np.random.Generator], Scene]
    render: Callable[[Any], Render]
    left_out: Callable[[Scene, str], bool]
    grain_named: float

    def vocabulary(self) -> list[str]:
        """Every word that a caption can hold, sorted."""
        values = [value for names in self.factors.values() for value in names]
        return vocabulary([*self.labels, *self.colours, *values])

    def captioned_scene(
        self, seed: int, *, held_out: bool, one_object: bool = False
    ) -> tuple[Scene, str]:
        """The captioned scene of a seed, drawn again until it is on the wanted side. With
        `one_object` it has the first of its objects alone, and the caption names no ground.
        """
        rng = np.random.default_rng([seed, int(held_out)])
        while True:
            scene = self.sample(rng)
            if one_object:
                scene = replace(scene, things=scene.things[:1])
            text = caption(scene, rng, grain_named=self.grain_named)
            if one_object and not set(self.stuff).isdisjoint(text.split()):
                continue
            if self.left_out(scene, text) == held_out:
                return scene, text


SHAPES = World(
    name="shapes",
    nouns=world.NOUNS,
    stuff=(),
    colours=tuple(styles.COLOURS),
    factors={
        "style": tuple(styles.STYLES), "tone": tuple(styles.TONES), "grain": styles.GRAINS,
    },
    sample=world.sample_scene,
    render=world.render,
    left_out=lambda scene, text: is_held_out(text),
    grain_named=1 / 3,
)  # fmt: skip

SCENES = World(
    name="scenes",
    nouns=shapes.NOUNS,
    stuff=tuple(grounds.STUFF),
    colours=tuple(styles.COLOURS),
    factors={
        "style": tuple(patterns.STYLES), "tone": tuple(grounds.TONES), "grain": patterns.GRAINS,
    },
    sample=sample_filled_scene,
    render=render_filled_scene,
    left_out=lambda scene, text: combination_held_out(scene),
    grain_named=0.6,
)  # fmt: skip


def world_of(name: str) -> World:
    """The world of a name; `UserError` for others."""
    known = {entry.name: entry for entry in (SHAPES, SCENES)}
    if name not in known:
        raise unknown("world", name, known)
    return known[name]
