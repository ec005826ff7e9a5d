"""The gate: is the miniature good enough to be studied? Every figure is measured on what no part
was trained on.
"""

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
    """One measured figure: its value, 95 % interval and count, and the bound that it must keep
    (None: told only).
    """

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
    interval = bootstrap(
        (array,), np.mean, n_resamples=1000, rng=np.random.default_rng(0)
    ).confidence_interval
    return GateFigure(
        name,
        float(array.mean()),
        (float(interval.low), float(interval.high)),
        array.size,
        bound,
        at_least,
    )


def _share(name: str, hits: Sequence[bool], bound: float | None = None) -> GateFigure:
    interval = binomtest(int(np.sum(hits)), len(hits)).proportion_ci(method="wilson")
    return GateFigure(
        name, float(np.mean(hits)), (float(interval.low), float(interval.high)), len(hits), bound
    )


def _iou(a: np.ndarray | None, b: np.ndarray) -> float:
    return 0.0 if a is None else float((a & b).sum() / (a | b).sum())


def check_autoencoder(
    reconstruct: Callable[[np.ndarray], np.ndarray], *, n: int = 500
) -> list[GateFigure]:
    """PSNR in dB, and how far the hue of objects moves, in degrees, on pictures of held-out
    scenes.
    """
    renders = [render(captioned_scene(seed, held_out=True)[0]) for seed in range(n)]
    pictures = np.stack([r.picture for r in renders])
    back = reconstruct(pictures)
    errors = np.square(pictures.astype(np.float64) - back).mean(axis=(1, 2, 3))
    shifts: list[float] = []
    for drawn, again in zip(renders, back, strict=True):
        truth, seen = rgb_to_hsv(drawn.picture / 255.0), rgb_to_hsv(again / 255.0)
        for mask in drawn.masks.values():
            vivid = (
                mask & (truth[..., 1] > 0.6) & (truth[..., 2] > 0.3)
            )  # hue means nothing where there is no colour
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
    """IoU of found with exact masks and accuracy of names on held-out scenes, drawn, and drawn and
    autoencoded.
    """
    scenes = [captioned_scene(seed, held_out=True)[0] for seed in range(n)]
    renders = [render(scene) for scene in scenes]
    pictures = np.stack([r.picture for r in renders])
    figures: list[GateFigure] = []
    for kind, shown, bound in (
        ("renders", pictures, 0.90),
        ("autoencoded renders", reconstruct(pictures), None),
    ):
        found = annotate(shown)
        ious = [
            _iou(f.masks.get(noun), m)
            for f, r in zip(found, renders, strict=True)
            for noun, m in r.masks.items()
        ]
        colours = [
            f.colours.get(t.noun) == t.colour
            for f, s in zip(found, scenes, strict=True)
            for t in s.things
        ]
        figures.append(_mean(f"annotator mean IoU, {kind}", ious, bound=bound))
        figures.append(_share(f"annotator colour right, {kind}", colours))
        for factor in FACTORS:
            hits = [
                f.factors[factor] == getattr(s, factor) for f, s in zip(found, scenes, strict=True)
            ]
            figures.append(_share(f"annotator {factor} right, {kind}", hits))
    return figures


def check_generation(
    generate: Generate, annotate: Annotate, *, n: int = 500
) -> tuple[list[GateFigure], np.ndarray]:
    """What of its caption is found in each of `n` pictures generated from held-out captions; and
    the pictures.
    """
    scenes, captions = zip(
        *(captioned_scene(10_000 + seed, held_out=True) for seed in range(n)), strict=True
    )
    pictures = generate(captions, range(n))
    found = annotate(pictures)
    named = [(f, t) for f, s in zip(found, scenes, strict=True) for t in s.things]
    unasked = [
        len(set(f.masks) - {t.noun for t in s.things}) for f, s in zip(found, scenes, strict=True)
    ]
    figures = [
        _share("named objects found", [t.noun in f.masks for f, t in named], bound=0.90),
        _share(
            "found in the named colour",
            [f.colours.get(t.noun) == t.colour for f, t in named],
            bound=0.85,
        ),
        _share(
            "style as named",
            [f.style == s.style for f, s in zip(found, scenes, strict=True)],
            bound=0.95,
        ),
        _share("tone as named", _factor_hits("tone", found, scenes, captions)),
        _share("grain as named", _factor_hits("grain", found, scenes, captions)),
        _mean("objects not asked for, a picture", unasked),
    ]
    return figures, pictures


def _factor_hits(
    factor: str, found: Sequence[Annotation], scenes: Sequence[Scene], captions: Sequence[str]
) -> list[bool]:
    """Hits on a factor that captions name only sometimes."""
    rows = zip(found, scenes, captions, strict=True)
    return [
        f.factors[factor] == getattr(s, factor)
        for f, s, text in rows
        if getattr(s, factor) in text.split()
    ]


def check_layouts(
    generate: Generate, annotate: Annotate, *, captions: int = 16, seeds: int = 6
) -> list[GateFigure]:
    """Whether the same caption with other seeds gives other layouts.

    The overlap (IoU) of a noun's masks over pairs of seeds is set beside its overlap over pairs of
    freshly drawn scenes, where places are random: the model passes when it repeats itself less than
    half-way from there to 1.
    """
    texts = [captioned_scene(50_000 + i, held_out=True)[1] for i in range(captions)]
    pictures = generate(
        [t for t in texts for _ in range(seeds)], [1000 + s for _ in texts for s in range(seeds)]
    )
    found = annotate(pictures)
    overlaps: list[float] = []
    for i in range(captions):
        group = found[i * seeds : (i + 1) * seeds]
        for a, b in combinations(group, 2):
            overlaps += [
                _iou(a.masks[noun], b.masks[noun]) for noun in a.masks.keys() & b.masks.keys()
            ]
    by_noun: dict[str, list[np.ndarray]] = {}
    for seed in range(400):
        for noun, mask in render(captioned_scene(60_000 + seed, held_out=True)[0]).masks.items():
            by_noun.setdefault(noun, []).append(mask)
    at_random = [_iou(a, b) for masks in by_noun.values() for a, b in combinations(masks[:12], 2)]
    return [
        _mean(
            "overlap of layouts over seeds (IoU)",
            overlaps,
            bound=(1 + float(np.mean(at_random))) / 2,
            at_least=False,
        ),
        _mean("overlap of layouts drawn at random (IoU)", at_random),
    ]
