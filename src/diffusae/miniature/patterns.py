"""Style and grain of filled scenes: brightness patterns whose mean is zero, so that neither shows
in the coarse picture.

A style is of middle frequency: its period is about ten pixels, and every region has a place of its
own in the pattern. A grain is fine: two pixels, and drawn anew at every place.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from diffusae.miniature.styles import Field

PERIOD = 10.0
STYLE_STRENGTH = 0.10
"""Root mean square of a style's pattern; a picture's brightness goes from 0 to 1."""
GRAIN_STRENGTH = 0.05

Axes = tuple[np.ndarray, np.ndarray]
"""Rows `[size, 1]` and columns `[1, size]` in periods."""


def _phase(rng: np.random.Generator) -> float:
    return float(rng.uniform(0, 2 * np.pi))


def _flat(axes: Axes, rng: np.random.Generator) -> Field:
    rows, columns = axes
    return np.zeros((rows.size, columns.size))


def _hatched(axes: Axes, rng: np.random.Generator) -> Field:
    rows, columns = axes
    return np.sin(2 * np.pi * (rows + columns) / np.sqrt(2) + _phase(rng)) * np.sqrt(2)


def _dotted(axes: Axes, rng: np.random.Generator) -> Field:
    rows, columns = axes
    return 2 * np.sin(2 * np.pi * rows + _phase(rng)) * np.sin(2 * np.pi * columns + _phase(rng))


def _wavy(axes: Axes, rng: np.random.Generator) -> Field:
    rows, columns = axes
    bend = 0.3 * np.sin(np.pi * columns + _phase(rng))
    return np.sin(2 * np.pi * (rows + bend) + _phase(rng)) * np.sqrt(2)


def _mosaic(axes: Axes, rng: np.random.Generator) -> Field:
    """Square tiles of uneven brightness."""
    rows, columns = (np.floor(1.25 * axis + rng.random()).astype(int) for axis in axes)
    tiles = rng.uniform(-np.sqrt(3), np.sqrt(3), (rows.max() + 1, columns.max() + 1))
    return tiles[rows, columns]


def _marbled(axes: Axes, rng: np.random.Generator) -> Field:
    """Dark veins that wander: the zeros of a slow random field."""
    from scipy.ndimage import zoom

    rows, columns = axes
    shape = (rows.size, columns.size)
    cells = [int(np.ceil(axis.max())) + 2 for axis in axes]
    slow = np.asarray(zoom(rng.standard_normal(cells), PERIOD, order=3))
    top, left = rng.integers(0, int(PERIOD), 2)
    veins = np.minimum(np.abs(slow[top : top + shape[0], left : left + shape[1]]), 0.8)
    return (veins - veins.mean()) / veins.std()


STYLES: dict[str, Callable[[Axes, np.random.Generator], Field]] = {
    "flat": _flat,
    "hatched": _hatched,
    "dotted": _dotted,
    "wavy": _wavy,
    "mosaic": _mosaic,
    "marbled": _marbled,
}


def style_pattern(style: str, size: int, rng: np.random.Generator) -> Field:
    """A style's pattern for one region, float32 `[size, size]`: mean 0, deviation 1 or all 0."""
    axis = np.arange(size) / PERIOD
    return STYLES[style]((axis[:, None], axis[None, :]), rng).astype(np.float32)


GRAINS: tuple[str, ...] = ("smooth", "speckled", "brushed")


def grain_pattern(grain: str, size: int, rng: np.random.Generator) -> Field:
    """A grain's pattern, float32 `[size, size]`, `size` a multiple of 8.

    Speckles are squares of 2 px. Brush strokes are 8 px wide and 2 px high; every second one is the
    opposite of the one above it. Each is brighter or darker by the same amount, at random.
    """
    if grain == "smooth":
        return np.zeros((size, size), np.float32)
    if grain == "speckled":
        signs = rng.choice([-1.0, 1.0], (size // 2, size // 2))
        return np.kron(signs, np.ones((2, 2))).astype(np.float32)
    signs = rng.choice([-1.0, 1.0], (size // 4, size // 8))
    stroke = np.repeat([1.0, -1.0], 2)[:, None] * np.ones(8)
    return np.kron(signs, stroke).astype(np.float32)
