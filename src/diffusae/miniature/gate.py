"""The gate: is the miniature good enough to be studied? All figures are of held-out captions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from matplotlib.colors import rgb_to_hsv
from scipy.stats import binomtest, bootstrap

from diffusae.miniature.annotator import Annotation
from diffusae.miniature.captions import captioned_scene
from diffusae.miniature.pool import FACTORS
from diffusae.miniature.world import Scene, render

Annotate = Callable[[np.ndarray], list[Annotation]]
Generate = Callable[[Sequence[str], Sequence[int]], np.ndarray]


@dataclass(frozen=True)
class GateFigure:
    """One measured figure: value, 95 % interval, count, and its bound (None: for information)."""

    name: str
    value: float
    ci95: tuple[float, float] | None
    n: int
    bound: float | None = None
    at_least: bool = True

    @property
    def passed(self) -> bool:
        """Whether the bound is kept; a figure without a bound always passes."""
        if self.bound is None:
            return True
        return self.value >= self.bound if self.at_least else self.value <= self.bound


def _mean(
    name: str,
    values: Sequence[float] | np.ndarray,
    bound: float | None = None,
    at_least: bool = True,
) -> GateFigure:
    array = np.asarray(values, np.float64)
    rng = np.random.default_rng(0)
    spread = bootstrap((array,), np.mean, n_resamples=1000, rng=rng).confidence_interval
    interval = (float(spread.low), float(spread.high))
    return GateFigure(name, float(array.mean()), interval, array.size, bound, at_least)


def _share(name: str, hits: Sequence[bool], bound: float | None = None) -> GateFigure:
    spread = binomtest(int(np.sum(hits)), len(hits)).proportion_ci(method="wilson")
    interval = (float(spread.low), float(spread.high))
    return GateFigure(name, float(np.mean(hits)), interval, len(hits), bound)


def _iou(a: np.ndarray | None, b: np.ndarray) -> float:
    return 0.0 if a is None else float((a & b).sum() / (a | b).sum())


def check_autoencoder(
    reconstruct: Callable[[np.ndarray], np.ndarray], *, n: int = 500
) -> list[GateFigure]:
    """PSNR in dB, and the change of objects' hue in degrees, on pictures of held-out scenes."""
    renders = [render(captioned_scene(seed, held_out=True)[0]) for seed in range(n)]
    pictures = np.stack([r.picture for r in renders])
    back = reconstruct(pictures)
    errors = np.square(pictures.astype(np.float64) - back).mean(axis=(1, 2, 3))
    shifts: list[float] = []
    for drawn, again in zip(renders, back, strict=True):
        truth, seen = rgb_to_hsv(drawn.picture / 255.0), rgb_to_hsv(again / 255.0)
        for mask in drawn.masks.values():
            # Hue means nothing where there is no colour.
            vivid = mask & (truth[..., 1] > 0.6) & (truth[..., 2] > 0.3)
            if vivid.any():
                turn = np.abs(truth[vivid, 0] - seen[vivid, 0])
                shifts.append(360 * float(np.minimum(turn, 1 - turn).mean()))
    return [
        _mean("autoencoder PSNR (dB)", 10 * np.log10(255**2 / errors), bound=28.0),
        _mean("autoencoder hue shift (degrees)", shifts, bound=10.0, at_least=False),
    ]


def check_annotator(
    annotate: Annotate, reconstruct: Callable[[np.ndarray], np.ndarray], *, n: int = 500
) -> list[GateFigure]:
    """IoU with exact masks and accuracy of names on held-out scenes, drawn and autoencoded."""
    scenes = [captioned_scene(seed, held_out=True)[0] for seed in range(n)]
    renders = [render(scene) for scene in scenes]
    pictures = np.stack([r.picture for r in renders])
    figures: list[GateFigure] = []
    for kind, shown, bound in (
        ("renders", pictures, 0.90),
        ("autoencoded renders", reconstruct(pictures), None),
    ):
        annotations = annotate(shown)
        ious = [
            _iou(a.masks.get(noun), mask)
            for a, r in zip(annotations, renders, strict=True)
            for noun, mask in r.masks.items()
        ]
        pairs = list(zip(annotations, scenes, strict=True))
        colours = [a.colours.get(t.noun) == t.colour for a, scene in pairs for t in scene.things]
        figures.append(_mean(f"annotator mean IoU, {kind}", ious, bound=bound))
        figures.append(_share(f"annotator colour right, {kind}", colours))
        for factor in FACTORS:
            hits = [a.factors[factor] == getattr(scene, factor) for a, scene in pairs]
            figures.append(_share(f"annotator {factor} right, {kind}", hits))
    return figures


def check_generation(
    generate: Generate, annotate: Annotate, *, n: int = 500
) -> tuple[list[GateFigure], np.ndarray]:
    """How well `n` generated pictures show their held-out captions; and the pictures."""
    drawn = [captioned_scene(10_000 + seed, held_out=True) for seed in range(n)]
    captions = [text for _, text in drawn]
    pictures = generate(captions, range(n))
    pairs = [(a, scene) for a, (scene, _) in zip(annotate(pictures), drawn, strict=True)]
    named = [(a, thing) for a, scene in pairs for thing in scene.things]
    unasked = [len(set(a.masks) - {thing.noun for thing in s.things}) for a, s in pairs]
    colours = [a.colours.get(thing.noun) == thing.colour for a, thing in named]
    styles = [a.style == scene.style for a, scene in pairs]
    figures = [
        _share("named objects found", [thing.noun in a.masks for a, thing in named], bound=0.90),
        _share("found in the named colour", colours, bound=0.85),
        _share("style as named", styles, bound=0.95),
        _share("tone as named", _factor_hits("tone", pairs, captions)),
        _share("grain as named", _factor_hits("grain", pairs, captions)),
        _mean("objects not asked for, a picture", unasked),
    ]
    return figures, pictures


def _factor_hits(
    factor: str, pairs: Sequence[tuple[Annotation, Scene]], captions: Sequence[str]
) -> list[bool]:
    """Hits on a factor that not every caption names."""
    return [
        annotation.factors[factor] == getattr(scene, factor)
        for (annotation, scene), text in zip(pairs, captions, strict=True)
        if getattr(scene, factor) in text.split()
    ]


def check_layouts(
    generate: Generate, annotate: Annotate, *, captions: int = 16, seeds: int = 6
) -> list[GateFigure]:
    """Whether the same caption with other seeds gives other layouts.

    The overlap (IoU) of a noun's masks over pairs of seeds is compared with its overlap over pairs
    of freshly drawn scenes, where places are random. The bound is half-way from there to 1.
    """
    texts = [captioned_scene(50_000 + i, held_out=True)[1] for i in range(captions)]
    repeated = [text for text in texts for _ in range(seeds)]
    annotations = annotate(generate(repeated, [1000 + s for _ in texts for s in range(seeds)]))
    overlaps: list[float] = []
    for i in range(captions):
        group = annotations[i * seeds : (i + 1) * seeds]
        for a, b in combinations(group, 2):
            common = a.masks.keys() & b.masks.keys()
            overlaps += [_iou(a.masks[noun], b.masks[noun]) for noun in common]
    by_noun: dict[str, list[np.ndarray]] = {}
    for seed in range(400):
        for noun, mask in render(captioned_scene(60_000 + seed, held_out=True)[0]).masks.items():
            by_noun.setdefault(noun, []).append(mask)
    at_random = [_iou(a, b) for masks in by_noun.values() for a, b in combinations(masks[:12], 2)]
    bound = (1 + float(np.mean(at_random))) / 2
    return [
        _mean("overlap of layouts over seeds (IoU)", overlaps, bound=bound, at_least=False),
        _mean("overlap of layouts drawn at random (IoU)", at_random),
    ]
