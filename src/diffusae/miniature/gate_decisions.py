"""The gate's decision times: another caption takes over at t and stays, with the same noise, and
the finished picture says whether it came too late.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from diffusae.miniature.annotator import Annotation
from diffusae.miniature.gate import Annotate, Generate
from diffusae.miniature.gate_figures import GRAIN, LAYOUT, STYLE, GateFigure, Measure
from diffusae.miniature.worlds import World

Exchanged = Callable[[Sequence[str], Sequence[int], Sequence[str], float], np.ndarray]
"""(captions, seeds, other captions, the t from which on these hold) -> pictures."""
FIRST = 20_000
"""Scene seeds of these captions start here."""
NEAR = 8.0
"""An object is in its place within this distance of centres, in pixels."""


def check_decisions(
    world: World, generate: Generate, exchanged: Exchanged, annotate: Annotate, *, n: int
) -> list[GateFigure]:
    """When layout, style and grain are decided, from `n` held-out captions for each."""
    measure = Measure(world)
    captions, others = _pairs(world, "style", n)
    taken = {
        t: _shows(annotate(exchanged(captions, range(n), others, t)), "style", others, world)
        for t in (0.6, 0.2)
    }
    styles = [early and not late for early, late in zip(taken[0.6], taken[0.2], strict=True)]
    named, grained = _pairs(world, "grain", n)
    seen = annotate(exchanged(named, range(n), grained, 0.3))
    return [
        *_layouts(measure, generate, exchanged, annotate, n),
        measure.share(STYLE, styles),
        measure.share("new style taken up from t = 0.6", taken[0.6]),
        measure.share("new style not taken up from t = 0.2", [not late for late in taken[0.2]]),
        measure.share(GRAIN, _shows(seen, "grain", grained, world)),
    ]


def _layouts(
    measure: Measure, generate: Generate, exchanged: Exchanged, annotate: Annotate, n: int
) -> list[GateFigure]:
    """Whether objects stay in their places when other nouns take over: at t = 0.7, and throughout,
    which shows what the noise alone decides.
    """
    captions, others = _renamed(measure.world, n)
    before = annotate(generate(captions, range(n)))
    figures = []
    for name, t in ((LAYOUT, 0.7), ("layout kept with other nouns throughout", 1.0)):
        after = annotate(exchanged(captions, range(n), others, t))
        figures.append(measure.share(name, list(map(same_layout, before, after))))
    return figures


def same_layout(before: Annotation, after: Annotation) -> bool:
    """Whether every object has another one in its place; False for a picture without objects."""
    own, other = _centres(before), _centres(after)
    if not len(own) or len(other) < len(own):
        return False
    apart = np.linalg.norm(own[:, None] - other[None], axis=-1)
    return bool((apart[linear_sum_assignment(apart)] <= NEAR).all())


def _centres(annotation: Annotation) -> np.ndarray:
    """Centres of the objects' masks, `[objects, 2]`, in pixels."""
    masks = [one.mask for one in annotation.instances if one.mask.any()]
    return np.array([np.argwhere(mask).mean(axis=0) for mask in masks]).reshape(-1, 2)


def _shows(
    annotations: Sequence[Annotation], factor: str, captions: Sequence[str], world: World
) -> list[bool]:
    """Whether a picture has its caption's value of a factor."""
    return [
        annotation.factors[factor] == _named(caption, world.factors[factor])[0]
        for annotation, caption in zip(annotations, captions, strict=True)
    ]


def _pairs(world: World, factor: str, n: int) -> tuple[list[str], list[str]]:
    """`n` captions that name a value of a factor, and the same ones with the next value."""
    values = world.factors[factor]
    return _exchanged_words(world, values, n, lambda value: _after(values, value, ()))


def _renamed(world: World, n: int) -> tuple[list[str], list[str]]:
    """`n` captions, and the same ones with other nouns of objects."""
    captions, others = _exchanged_words(world, world.nouns, n, lambda noun: f"{noun}*")
    renamed = []
    for caption, marked in zip(captions, others, strict=True):
        used = _named(caption, world.nouns)
        for noun in used:
            new = _after(world.nouns, noun, used)
            marked = marked.replace(f"{noun}*", new)
            used = [*used, new]
        renamed.append(marked)
    return captions, renamed


def _exchanged_words(
    world: World, words: Sequence[str], n: int, other: Callable[[str], str]
) -> tuple[list[str], list[str]]:
    """The first `n` captions that name one of the words, and the same with another in its place."""
    captions: list[str] = []
    seed = FIRST
    while len(captions) < n:
        text = world.captioned_scene(seed, held_out=True)[1]
        captions += [text] if _named(text, words) else []
        seed += 1
    pattern = re.compile(rf"\b({'|'.join(words)})\b")
    return captions, [pattern.sub(lambda found: other(found.group()), text) for text in captions]


def _named(caption: str, words: Sequence[str]) -> list[str]:
    """The words that a caption names, in its order."""
    return [word for word in caption.split() if word in words]


def _after(values: Sequence[str], value: str, left_out: Sequence[str]) -> str:
    """The next value in the list that is not left out, from its first again after its last."""
    start = values.index(value) + 1
    return next(one for one in (*values[start:], *values) if one not in (*left_out, value))
