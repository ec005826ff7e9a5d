"""The gate: is the miniature good enough to be studied? All figures are of held-out captions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
from matplotlib.colors import rgb_to_hsv

from diffusae.miniature.annotator import Annotation, Instance
from diffusae.miniature.gate_figures import GateFigure, Measure
from diffusae.miniature.world import Render, Scene
from diffusae.miniature.worlds import World

Annotate = Callable[[np.ndarray], list[Annotation]]
Generate = Callable[[Sequence[str], Sequence[int]], np.ndarray]

NOISE = 8.0
"""Deviation of the noise in noisy renders, of 255."""


def _iou(a: np.ndarray | None, b: np.ndarray) -> float:
    return 0.0 if a is None else float((a & b).sum() / (a | b).sum())


def matched(annotation: Annotation, scene: Scene) -> list[Instance | None]:
    """An instance of its own for every object of a scene, or None.

    Of several instances of the noun, one of the right colour is taken first, then the largest.
    """
    free = sorted(annotation.instances, key=lambda instance: -instance.mask.sum())
    pairs: dict[int, Instance] = {}
    for exact in (True, False):
        for place, thing in enumerate(scene.things):
            fitting = [
                instance
                for instance in free
                if instance.noun == thing.noun and (instance.colour == thing.colour or not exact)
            ]
            if place not in pairs and fitting:
                pairs[place] = fitting[0]
                free = [instance for instance in free if instance is not fitting[0]]
    return [pairs.get(place) for place in range(len(scene.things))]


def _false_objects(annotation: Annotation, scene: Scene) -> int:
    found = sum(instance is not None for instance in matched(annotation, scene))
    return len(annotation.instances) - found


def check_autoencoder(
    world: World, reconstruct: Callable[[np.ndarray], np.ndarray], *, n: int = 500
) -> list[GateFigure]:
    """PSNR in dB, and the change of objects' hue in degrees, on pictures of held-out scenes."""
    renders = [world.render(world.captioned_scene(seed, held_out=True)[0]) for seed in range(n)]
    pictures = np.stack([r.picture for r in renders])
    back = reconstruct(pictures)
    errors = np.square(pictures.astype(np.float64) - back).mean(axis=(1, 2, 3))
    shifts: list[float] = []
    for drawn, again in zip(renders, back, strict=True):
        truth, seen = rgb_to_hsv(drawn.picture / 255.0), rgb_to_hsv(again / 255.0)
        for mask in drawn.instances:
            # Hue means nothing where there is no colour.
            vivid = mask & (truth[..., 1] > 0.6) & (truth[..., 2] > 0.3)
            if vivid.any():
                turn = np.abs(truth[vivid, 0] - seen[vivid, 0])
                shifts.append(360 * float(np.minimum(turn, 1 - turn).mean()))
    measure = Measure(world)
    return [
        measure.mean("autoencoder PSNR (dB)", 10 * np.log10(255**2 / errors)),
        measure.mean("autoencoder hue shift (degrees)", shifts, at_least=False),
    ]


def check_annotator(
    world: World,
    annotate: Annotate,
    reconstruct: Callable[[np.ndarray], np.ndarray],
    *,
    n: int = 500,
) -> list[GateFigure]:
    """IoU with exact masks and accuracy of names on held-out scenes: drawn, noisy, autoencoded."""
    scenes = [world.captioned_scene(seed, held_out=True)[0] for seed in range(n)]
    renders = [world.render(scene) for scene in scenes]
    pictures = np.stack([r.picture for r in renders])
    noise = np.random.default_rng(0).normal(scale=NOISE, size=pictures.shape)
    shown = {
        "renders": pictures,
        "noisy renders": np.clip(np.round(pictures + noise), 0, 255).astype(np.uint8),
        "autoencoded renders": reconstruct(pictures),
    }
    figures: list[GateFigure] = []
    for kind, seen in shown.items():
        figures += _annotated(world, annotate(seen), scenes, renders, kind)
    return figures


def _annotated(
    world: World,
    annotations: Sequence[Annotation],
    scenes: Sequence[Scene],
    renders: Sequence[Render],
    kind: str,
) -> list[GateFigure]:
    """The annotator's figures on one kind of pictures."""
    measure = Measure(world)
    ious: dict[str, list[float]] = {"": [], " of the ground": []}
    for annotation, drawn in zip(annotations, renders, strict=True):
        for noun, mask in drawn.masks.items():
            of = ious[" of the ground" if noun in world.stuff else ""]
            of.append(_iou(annotation.masks.get(noun), mask))
    pairs = list(zip(annotations, scenes, strict=True))
    colours = [
        instance is not None and instance.colour == thing.colour
        for a, scene in pairs
        for instance, thing in zip(matched(a, scene), scene.things, strict=True)
    ]
    figures = [
        measure.mean(f"annotator mean IoU{of}, {kind}", values)
        for of, values in ious.items()
        if values
    ]
    figures.append(measure.share(f"annotator colour right, {kind}", colours))
    false = [_false_objects(a, scene) for a, scene in pairs]
    figures.append(measure.mean(f"annotator false objects, {kind}", false, at_least=False))
    for factor in world.factors:
        hits = [a.factors[factor] == getattr(scene, factor) for a, scene in pairs]
        figures.append(measure.share(f"annotator {factor} right, {kind}", hits))
    return figures


Pairs = Sequence[tuple[Annotation, Scene]]


def check_generation(
    world: World, generate: Generate, annotate: Annotate, *, n: int = 500
) -> tuple[list[GateFigure], np.ndarray]:
    """How well `n` generated pictures show their held-out captions; and the pictures."""
    drawn = [world.captioned_scene(10_000 + seed, held_out=True) for seed in range(n)]
    captions = [text for _, text in drawn]
    pictures = generate(captions, range(n))
    pairs = [(a, scene) for a, (scene, _) in zip(annotate(pictures), drawn, strict=True)]
    measure = Measure(world)
    figures = [
        *_objects(measure, pairs),
        measure.share("style as named", [a.style == scene.style for a, scene in pairs]),
        measure.share("tone as named", _factor_hits("tone", pairs, captions)),
        measure.share("grain as named", _factor_hits("grain", pairs, captions)),
    ]
    if world.stuff:
        grounds = [
            set(a.masks) & set(world.stuff) == set(parts)
            for (a, _), text in zip(pairs, captions, strict=True)
            if (parts := [noun for noun in world.stuff if noun in text.split()])
        ]
        figures.append(measure.share("ground as named", grounds))
    return figures, pictures


def _objects(measure: Measure, pairs: Pairs) -> list[GateFigure]:
    """Whether the named objects, and no others, are found, and in their colours."""
    of_count: dict[int, list[bool]] = {}
    found: list[bool] = []
    coloured: list[bool] = []
    for annotation, scene in pairs:
        for instance, thing in zip(matched(annotation, scene), scene.things, strict=True):
            right = instance is not None and instance.colour == thing.colour
            found.append(instance is not None)
            coloured.append(right)
            if instance is not None:
                of_count.setdefault(len(scene.things), []).append(right)
    false = [_false_objects(annotation, scene) for annotation, scene in pairs]
    unasked = [len(set(a.colours) - {thing.noun for thing in s.things}) for a, s in pairs]
    asked = [True] * sum(found) + [False] * sum(false)
    return [
        measure.share("named objects found", found),
        measure.share("found in the named colour", coloured),
        *[
            measure.share(f"colour bound to its noun, {count} objects", of_count[count])
            for count in (2, 3)
            if count in of_count
        ],
        measure.share("found objects that were asked for (precision)", asked),
        measure.mean("objects not asked for, a picture", unasked, at_least=False),
        measure.mean("false objects, a picture", false, at_least=False),
    ]


def _factor_hits(factor: str, pairs: Pairs, captions: Sequence[str]) -> list[bool]:
    """Hits on a factor that not every caption names."""
    return [
        annotation.factors[factor] == getattr(scene, factor)
        for (annotation, scene), text in zip(pairs, captions, strict=True)
        if getattr(scene, factor) in text.split()
    ]


def check_layouts(
    world: World, generate: Generate, annotate: Annotate, *, captions: int = 16, seeds: int = 6
) -> list[GateFigure]:
    """Whether the same caption with other seeds gives other layouts.

    The overlap (IoU) of a noun's masks over pairs of seeds is compared with its overlap over pairs
    of freshly drawn scenes, where places are random. The bound is half-way from there to 1. The
    ground does not count.
    """
    texts = [world.captioned_scene(50_000 + i, held_out=True)[1] for i in range(captions)]
    repeated = [text for text in texts for _ in range(seeds)]
    annotations = annotate(generate(repeated, [1000 + s for _ in texts for s in range(seeds)]))
    overlaps: list[float] = []
    for i in range(captions):
        group = annotations[i * seeds : (i + 1) * seeds]
        for a, b in combinations(group, 2):
            common = a.colours.keys() & b.colours.keys()
            overlaps += [_iou(a.masks[noun], b.masks[noun]) for noun in common]
    by_noun: dict[str, list[np.ndarray]] = {noun: [] for noun in world.nouns}
    for seed in range(400):
        scene = world.captioned_scene(60_000 + seed, held_out=True)[0]
        for noun, mask in world.render(scene).masks.items():
            if noun in by_noun:
                by_noun[noun].append(mask)
    at_random = [_iou(a, b) for masks in by_noun.values() for a, b in combinations(masks[:12], 2)]
    bound = (1 + float(np.mean(at_random))) / 2
    measure = Measure(world)
    over_seeds = "overlap of layouts over seeds (IoU)"
    return [
        measure.mean(over_seeds, overlaps, bound=bound, at_least=False),
        measure.mean("overlap of layouts drawn at random (IoU)", at_random),
    ]
