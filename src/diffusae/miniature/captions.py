"""Captions of scenes: objects, colours and style, sometimes tone and grain, never places."""

from __future__ import annotations

import hashlib

import numpy as np

from diffusae.miniature.world import Scene, sample_scene

STYLE_WORDS: dict[str, str] = {
    style: style for style in ("flat", "outline", "hatched", "neon", "watercolour", "mosaic")
}
TONE_PHRASES: dict[str, str] = {
    "night": "at night", "dusk": "at dusk", "fog": "in fog", "paper": "on paper",
}  # fmt: skip
GRAIN_PHRASES: dict[str, str] = {
    grain: f"{grain} texture" for grain in ("smooth", "canvas", "ruled")
}

_SENTENCES = (
    "a {style} drawing of {things}{tone}{grain}",
    "a {style} picture of {things}{tone}{grain}",
    "{style} art , {things}{tone}{grain}",
    "{things}{tone} in {style} style{grain}",
    "{things}{tone} , {style}{grain}",
    "{things} , drawn in {style} style{tone}{grain}",
)
TONE_NAMED = 0.5
GRAIN_NAMED = 1 / 3
HELD_OUT = 0.1


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """One wording of a scene: lower case, words and commas separated by single blanks."""
    phrases = [f"a {thing.colour} {thing.noun}" for thing in scene.things]
    order = rng.permutation(len(phrases))
    phrases = [phrases[i] for i in order]
    last_joint = " and " if rng.random() < 0.7 else " with "
    things = phrases[0]
    if len(phrases) > 1:
        things = last_joint.join([" , ".join(phrases[:-1]), phrases[-1]])
    tone = f" {TONE_PHRASES[scene.tone]}" if rng.random() < TONE_NAMED else ""
    grain = f" , {GRAIN_PHRASES[scene.grain]}" if rng.random() < GRAIN_NAMED else ""
    sentence = _SENTENCES[int(rng.integers(len(_SENTENCES)))]
    return sentence.format(style=STYLE_WORDS[scene.style], things=things, tone=tone, grain=grain)


def is_held_out(text: str) -> bool:
    """Whether the caption's hash is in the tenth that no part of the miniature is trained on."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 2**32 < HELD_OUT


def captioned_scene(seed: int, *, held_out: bool) -> tuple[Scene, str]:
    """The captioned scene of a seed, drawn again until its caption is on the wanted side."""
    rng = np.random.default_rng([seed, int(held_out)])
    while True:
        scene = sample_scene(rng)
        text = caption(scene, rng)
        if is_held_out(text) == held_out:
            return scene, text


def vocabulary() -> list[str]:
    """Every word that a caption can hold, sorted."""
    from diffusae.miniature.shapes import NOUNS
    from diffusae.miniature.styles import COLOURS

    sentences = " ".join(_SENTENCES).replace("{", " ").replace("}", " ").split()
    phrases = " ".join([*TONE_PHRASES.values(), *GRAIN_PHRASES.values()]).split()
    words = {*sentences, *phrases, *NOUNS, *COLOURS, *STYLE_WORDS.values(), "and", "with"}
    return sorted(words - {"things", "tone", "grain"})  # the other fields of the sentences
