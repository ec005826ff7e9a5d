"""The ground of filled scenes: parts such as sky and sea that lie in bands and fill the frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

STUFF: dict[str, tuple[float, float, float]] = {
    "sky": (0.60, 0.74, 0.84),
    "sea": (0.32, 0.48, 0.58),
    "grass": (0.46, 0.55, 0.36),
    "sand": (0.80, 0.73, 0.58),
    "floor": (0.50, 0.40, 0.35),
    "wall": (0.76, 0.66, 0.66),
}
"""Parts of the ground with their colours by day: pale, as all objects are vivid."""

GROUNDS: tuple[tuple[str, ...], ...] = (
    ("sky", "sea"),
    ("sky", "grass"),
    ("sky", "sand"),
    ("sky", "sea", "sand"),
    ("sky", "sea", "grass"),
    ("wall", "floor"),
)
"""The grounds that occur, parts from top to bottom."""

TONES: dict[str, tuple[float, tuple[float, float, float]]] = {
    "night": (0.62, (0.04, 0.05, 0.14)),
    "dusk": (0.50, (0.50, 0.26, 0.30)),
    "fog": (0.55, (0.72, 0.73, 0.74)),
    "day": (0.0, (0.0, 0.0, 0.0)),
}
"""How much of a part's colour is replaced, and by what colour."""


@dataclass(frozen=True)
class Edge:
    """The line between two parts: its height at the picture's middle, slope, and waves; pixels."""

    height: float
    slope: float
    wave: float
    length: float
    phase: float

    def distance(self, size: int) -> np.ndarray:
        """Rows below the line, `[size, size]`: negative above it."""
        axis = np.arange(size, dtype=np.float32) + 0.5
        bend = self.wave * np.sin(2 * np.pi * axis / self.length + self.phase)
        line = self.height + self.slope * (axis - size / 2) + bend
        return (axis[:, None] - line[None, :]).astype(np.float32)


def draw_edges(parts: tuple[str, ...], size: int, rng: np.random.Generator) -> tuple[Edge, ...]:
    """Lines between the parts, so far apart that every part is seen; indoors they are straight."""
    bands = {2: [(0.30, 0.68)], 3: [(0.24, 0.40), (0.62, 0.78)]}[len(parts)]
    indoors = "floor" in parts
    return tuple(
        Edge(
            height=float(rng.uniform(low, high)) * size,
            slope=float(rng.uniform(-0.12, 0.12)),
            wave=0.0 if indoors else float(rng.uniform(0.0, 2.5)),
            length=float(rng.uniform(24, 60)),
            phase=float(rng.uniform(0, 2 * np.pi)),
        )
        for low, high in bands
    )


def toned(part: str, tone: str) -> np.ndarray:
    """The colour of a part in a tone, float32 [3]."""
    share, colour = TONES[tone]
    mixed = (1 - share) * np.asarray(STUFF[part]) + share * np.asarray(colour)
    return mixed.astype(np.float32)
