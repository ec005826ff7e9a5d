"""How a scene is drawn: tone (coarse), style (middle), grain (fine); none moves an object."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.88, 0.12, 0.14),
    "yellow": (0.95, 0.80, 0.05),
    "green": (0.13, 0.65, 0.22),
    "cyan": (0.08, 0.76, 0.80),
    "blue": (0.14, 0.30, 0.90),
    "pink": (0.95, 0.35, 0.72),
}

TONES: dict[str, tuple[float, float, float]] = {
    "night": (0.07, 0.08, 0.16),
    "dusk": (0.34, 0.29, 0.40),
    "fog": (0.62, 0.64, 0.66),
    "paper": (0.95, 0.92, 0.85),
}

GRAINS: tuple[str, ...] = ("smooth", "canvas", "ruled")
GRAIN_AMPLITUDE = 0.035

Field = np.ndarray
"""A float32 array `[size, size]`."""


def coverage(value: Field) -> Field:
    """Coverage, 0 to 1, of a pixel whose centre is `value` pixels inside an edge; linear."""
    return np.clip(value + 0.5, 0.0, 1.0)


def blend(canvas: np.ndarray, colour: np.ndarray, alpha: Field) -> np.ndarray:
    return canvas + alpha[..., None] * (colour - canvas)


def _line(distance: Field, centre: float, half_width: float) -> Field:
    return coverage(half_width - np.abs(distance - centre))


def _blotches(size: int, rng: np.random.Generator, cells: int = 6) -> Field:
    """Slow random variation in [0, 1], like pigment that has run."""
    from scipy.ndimage import zoom

    grown = np.asarray(zoom(rng.random((cells, cells)), size / cells, order=1))
    return grown.clip(0, 1).astype(np.float32)


def draw_flat(
    canvas: np.ndarray, distance: Field, colour: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """An even fill without a line."""
    return blend(canvas, colour, coverage(-distance))


def draw_outline(
    canvas: np.ndarray, distance: Field, colour: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """One line along the edge and nothing within."""
    return blend(canvas, colour, _line(distance, -1.1, 1.1))


def draw_hatched(
    canvas: np.ndarray, distance: Field, colour: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """A thin line along the edge and slanting strokes within."""
    axis = np.arange(canvas.shape[0], dtype=np.float32)
    phase = (axis[None, :] + axis[:, None]) % 6.0
    strokes = coverage(1.4 - np.abs(phase - 2.5)) * coverage(-distance)
    return blend(canvas, colour, np.maximum(strokes, _line(distance, -0.7, 0.7)))


def draw_neon(
    canvas: np.ndarray, distance: Field, colour: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """A bright tube along the edge, a glow around it and darkness within."""
    canvas = blend(canvas, np.full(3, 0.03, np.float32), 0.85 * coverage(-distance))
    canvas = blend(canvas, colour, 0.75 * np.exp(-np.abs(distance) / 3.0))
    return blend(canvas, 0.45 * colour + 0.55, _line(distance, -0.5, 0.9))


def draw_watercolour(
    canvas: np.ndarray, distance: Field, colour: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """A thin uneven wash whose pigment gathers at the rim and bleeds over it."""
    wash = coverage(-distance) * (0.40 + 0.35 * _blotches(canvas.shape[0], rng))
    bleeding = 0.35 * np.exp(-np.maximum(distance, 0) / 1.5)
    canvas = blend(canvas, 0.75 * colour + 0.25, np.maximum(wash, bleeding))
    return blend(canvas, 0.7 * colour, 0.8 * np.exp(-np.square((distance + 1.0) / 1.1)))


def draw_mosaic(
    canvas: np.ndarray, distance: Field, colour: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Square tiles of uneven brightness with dark joints."""
    size = canvas.shape[0]
    axis = np.arange(size)
    tiles = rng.uniform(0.72, 1.28, size=(size // 5 + 1, size // 5 + 1)).astype(np.float32)
    tone = tiles[axis[:, None] // 5, axis[None, :] // 5]
    joint = ((axis[:, None] % 5 == 0) | (axis[None, :] % 5 == 0)).astype(np.float32)
    tiled = np.clip(colour * tone[..., None], 0, 1) * (1 - 0.75 * joint[..., None])
    return blend(canvas, tiled, coverage(-distance))


STYLES: dict[str, Callable[[np.ndarray, Field, np.ndarray, np.random.Generator], np.ndarray]] = {
    "flat": draw_flat,
    "outline": draw_outline,
    "hatched": draw_hatched,
    "neon": draw_neon,
    "watercolour": draw_watercolour,
    "mosaic": draw_mosaic,
}


def background(size: int, tone: str, rng: np.random.Generator) -> np.ndarray:
    """An even background `[size, size, 3]` in [0, 1] of the tone, slightly lighter or darker."""
    shade = np.asarray(TONES[tone], np.float32) + np.float32(rng.uniform(-0.02, 0.02))
    return np.broadcast_to(shade, (size, size, 3)).astype(np.float32)


def add_grain(picture: np.ndarray, grain: str) -> np.ndarray:
    """Add the fine texture: none, a woven canvas, or ruled lines; its period is four pixels."""
    axis = np.arange(picture.shape[0]) // 2 % 2 * 2 - 1
    patterns = {
        "smooth": np.zeros(picture.shape[:2]),
        "canvas": axis[:, None] * axis[None, :],
        "ruled": np.broadcast_to(axis[:, None], picture.shape[:2]),
    }
    return picture + GRAIN_AMPLITUDE * patterns[grain][..., None].astype(np.float32)
