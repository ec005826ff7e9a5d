"""Captions of scenes: objects, colours and style, sometimes ground, tone and grain, never
places.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection

import numpy as np

from diffusae.miniature.scenes import FilledScene
from diffusae.miniature.world import Scene

TONE_PHRASES: dict[str, str] = {
    "night": "at night", "dusk": "at dusk", "fog": "in fog", "paper": "on paper", "day": "by day",
}  # fmt: skip

_SENTENCES = (
    "a {style} drawing of {things}{ground}{tone}{grain}",
    "a {style} picture of {things}{ground}{tone}{grain}",
    "{style} art , {things}{ground}{tone}{grain}",
    "{things}{ground}{tone} in {style} style{grain}",
    "{things}{ground}{tone} , {style}{grain}",
    "{things}{ground} , drawn in {style} style{tone}{grain}",
)
GROUND_NAMED = 2 / 3
TONE_NAMED = 0.5
HELD_OUT = 0.1


def caption(scene: Scene, rng: np.random.Generator, *, grain_named: float = 1 / 3) -> str:
    """One wording of a scene: lower case, words and commas separated by single blanks."""
    phrases = [f"a {thing.colour} {thing.noun}" for thing in scene.things]
    order = rng.permutation(len(phrases))
    phrases = [phrases[i] for i in order]
    last_joint = " and " if rng.random() < 0.7 else " with "
    things = phrases[0]
    if len(phrases) > 1:
        things = last_joint.join([" , ".join(phrases[:-1]), phrases[-1]])
    ground = ""
    if isinstance(scene, FilledScene) and rng.random() < GROUND_NAMED:
        ground = f" , {' , '.join(scene.parts[:-1])} and {scene.parts[-1]}"
    tone = f" {TONE_PHRASES[scene.tone]}" if rng.random() < TONE_NAMED else ""
    grain = f" , {scene.grain} texture" if rng.random() < grain_named else ""
    sentence = _SENTENCES[int(rng.integers(len(_SENTENCES)))]
    return sentence.format(style=scene.style, things=things, ground=ground, tone=tone, grain=grain)


def is_held_out(text: str) -> bool:
    """Whether the caption's hash is in the tenth that is never trained on."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 2**32 < HELD_OUT


def vocabulary(names: Collection[str]) -> list[str]:
    """Every word that a caption can hold, sorted. `names`: nouns, colours and values of factors."""
    sentences = " ".join(_SENTENCES).replace("{", " ").replace("}", " ").split()
    fields = {"things", "ground", "tone", "grain"}
    phrases = " ".join(TONE_PHRASES[name] for name in names if name in TONE_PHRASES).split()
    return sorted({*sentences, *phrases, *names, "and", "with", "texture"} - fields)
