"""The silhouettes of the world's objects, as signed distance fields that can be placed anywhere."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

TEMPLATE_SIZE = 256
"""Side of a template in pixels; the object's square [-1, 1] x [-1, 1] is its middle half."""

Point = tuple[float, float]


def _ellipse(
    cx: float, cy: float, rx: float, ry: float, start: float = 0.0, end: float = 360.0
) -> list[Point]:
    angles = np.radians(np.linspace(start, end, 64))
    return [(cx + rx * math.cos(a), cy + ry * math.sin(a)) for a in angles]


def _star() -> list[Point]:
    radii = [1.0 if i % 2 == 0 else 0.42 for i in range(10)]
    return [
        (r * math.sin(i * math.pi / 5), -r * math.cos(i * math.pi / 5)) for i, r in enumerate(radii)
    ]


def _heart() -> list[Point]:
    a = np.linspace(0, 2 * math.pi, 96)
    x = np.sin(a) ** 3
    y = -(13 * np.cos(a) - 5 * np.cos(2 * a) - 2 * np.cos(3 * a) - np.cos(4 * a)) / 15.0
    return list(zip(x.tolist(), (y - 0.08).tolist(), strict=True))


# Each silhouette is a list of (sign, polygon) in the square [-1, 1] with y pointing down:
# polygons with sign + are united, those with sign - are cut out, in the order given.
_SILHOUETTES: dict[str, list[tuple[str, list[Point]]]] = {
    "fish": [
        ("+", _ellipse(-0.2, 0.0, 0.78, 0.48)),
        ("+", [(0.35, 0.0), (1.0, -0.55), (0.82, 0.0), (1.0, 0.55)]),
        ("+", [(-0.3, -0.4), (0.1, -0.75), (0.25, -0.3)]),
    ],
    "house": [
        ("+", [(-0.72, -0.05), (0.72, -0.05), (0.72, 0.95), (-0.72, 0.95)]),
        ("+", [(-1.0, 0.0), (0.0, -0.95), (1.0, 0.0)]),
        ("+", [(0.4, -0.9), (0.68, -0.9), (0.68, -0.2), (0.4, -0.2)]),
        ("-", [(-0.2, 0.4), (0.2, 0.4), (0.2, 0.96), (-0.2, 0.96)]),
    ],
    "tree": [
        ("+", [(-0.16, 0.4), (0.16, 0.4), (0.16, 1.0), (-0.16, 1.0)]),
        ("+", [(0.0, -1.0), (0.5, -0.3), (-0.5, -0.3)]),
        ("+", [(0.0, -0.7), (0.66, 0.12), (-0.66, 0.12)]),
        ("+", [(0.0, -0.35), (0.82, 0.58), (-0.82, 0.58)]),
    ],
    "boat": [
        ("+", [(-1.0, 0.35), (1.0, 0.35), (0.62, 0.9), (-0.62, 0.9)]),
        ("+", [(-0.08, -1.0), (0.06, -1.0), (0.06, 0.4), (-0.08, 0.4)]),
        ("+", [(0.12, -0.95), (0.85, 0.2), (0.12, 0.2)]),
        ("+", [(-0.14, -0.7), (-0.7, 0.2), (-0.14, 0.2)]),
    ],
    "star": [("+", _star())],
    "heart": [("+", _heart())],
    "moon": [("+", _ellipse(0.0, 0.0, 0.95, 0.95)), ("-", _ellipse(0.5, -0.1, 0.8, 0.8))],
    "cat": [
        ("+", _ellipse(0.0, 0.2, 0.85, 0.7)),
        ("+", [(-0.85, -0.95), (-0.2, -0.4), (-0.8, 0.2)]),
        ("+", [(0.85, -0.95), (0.2, -0.4), (0.8, 0.2)]),
    ],
    "car": [
        ("+", [(-1.0, -0.02), (1.0, -0.02), (1.0, 0.42), (-1.0, 0.42)]),
        ("+", [(-0.55, 0.0), (-0.3, -0.5), (0.4, -0.5), (0.7, 0.0)]),
        ("+", _ellipse(-0.55, 0.45, 0.27, 0.27)),
        ("+", _ellipse(0.55, 0.45, 0.27, 0.27)),
    ],
    "cup": [
        ("+", [(-0.75, -0.75), (0.45, -0.75), (0.35, 0.85), (-0.65, 0.85)]),
        ("+", _ellipse(0.48, -0.05, 0.48, 0.5)),
        ("-", _ellipse(0.5, -0.05, 0.24, 0.26)),
        ("+", [(-0.75, -0.75), (0.38, -0.75), (0.3, 0.85), (-0.65, 0.85)]),
    ],
    "flower": [
        *[
            ("+", _ellipse(0.48 * math.cos(a), -0.24 + 0.48 * math.sin(a), 0.28, 0.28))
            for a in np.arange(6) * math.pi / 3
        ],
        ("+", _ellipse(0.0, -0.24, 0.39, 0.39)),
        ("+", [(-0.09, 0.0), (0.09, 0.0), (0.09, 1.0), (-0.09, 1.0)]),
        ("+", _ellipse(0.3, 0.65, 0.28, 0.13)),
    ],
    "mushroom": [
        ("+", _ellipse(0.0, 0.0, 0.98, 0.85, 180, 360)),
        ("+", [(-0.28, -0.05), (0.28, -0.05), (0.36, 0.9), (-0.36, 0.9)]),
    ],
    "key": [
        ("+", _ellipse(-0.52, 0.0, 0.48, 0.48)),
        ("-", _ellipse(-0.52, 0.0, 0.2, 0.2)),
        ("+", [(-0.1, -0.15), (1.0, -0.15), (1.0, 0.15), (-0.1, 0.15)]),
        ("+", [(0.4, 0.0), (0.6, 0.0), (0.6, 0.5), (0.4, 0.5)]),
        ("+", [(0.8, 0.0), (1.0, 0.0), (1.0, 0.5), (0.8, 0.5)]),
    ],
    "bottle": [
        ("+", [(-0.18, -1.0), (0.18, -1.0), (0.18, -0.4), (-0.18, -0.4)]),
        ("+", [(-0.18, -0.5), (0.18, -0.5), (0.45, -0.1), (-0.45, -0.1)]),
        ("+", [(-0.45, -0.1), (0.45, -0.1), (0.45, 1.0), (-0.45, 1.0)]),
    ],
    "bell": [
        ("+", _ellipse(0.0, -0.15, 0.5, 0.8, 180, 360)),
        ("+", [(-0.5, -0.2), (0.5, -0.2), (0.95, 0.6), (-0.95, 0.6)]),
        ("+", _ellipse(0.0, 0.7, 0.25, 0.25)),
    ],
    "rocket": [
        ("+", _ellipse(0.0, -0.1, 0.38, 0.9)),
        ("+", [(-0.2, 0.0), (-0.85, 0.7), (-0.85, 1.0), (-0.15, 0.65)]),
        ("+", [(0.2, 0.0), (0.85, 0.7), (0.85, 1.0), (0.15, 0.65)]),
    ],
    "crown": [
        (
            "+",
            [(-0.9, 0.8), (-1.0, -0.7), (-0.45, 0.1), (0.0, -0.85), (0.45, 0.1), (1.0, -0.7),
             (0.9, 0.8)],
        ),
    ],
    "bird": [
        ("+", _ellipse(-0.05, 0.25, 0.6, 0.38)),
        ("+", _ellipse(0.5, -0.2, 0.3, 0.3)),
        ("+", [(0.72, -0.38), (1.0, -0.2), (0.72, -0.02)]),
        ("+", [(-0.5, 0.15), (-1.0, -0.05), (-1.0, 0.55)]),
        ("+", [(-0.35, 0.2), (-0.5, -0.9), (0.25, 0.1)]),
    ],
}  # fmt: skip

NOUNS: tuple[str, ...] = tuple(_SILHOUETTES)


@cache
def signed_distance_template(noun: str) -> np.ndarray:
    """Signed distance to the silhouette's edge, negative inside, in half sides of the object.

    Returns float32 `[TEMPLATE_SIZE, TEMPLATE_SIZE]` over the square [-2, 2] x [-2, 2].
    """
    image = Image.new("L", (TEMPLATE_SIZE, TEMPLATE_SIZE), 0)
    draw = ImageDraw.Draw(image)
    for sign, polygon in _SILHOUETTES[noun]:
        pixels = [((x + 2) * TEMPLATE_SIZE / 4, (y + 2) * TEMPLATE_SIZE / 4) for x, y in polygon]
        draw.polygon(pixels, fill=255 if sign == "+" else 0)
    inside = np.asarray(image) > 127
    from scipy.ndimage import distance_transform_edt

    outside_distance = np.asarray(distance_transform_edt(~inside))
    inside_distance = np.asarray(distance_transform_edt(inside))
    # The transforms are one pixel apart: half of it belongs to each side.
    signed = np.where(inside, 0.5 - inside_distance, outside_distance - 0.5)
    return (signed * 4 / TEMPLATE_SIZE).astype(np.float32)


def placed_distance(
    noun: str,
    *,
    size: int,
    centre: tuple[float, float],
    radius: float,
    angle: float,
    mirrored: bool,
) -> np.ndarray:
    """Signed distance in pixels, `[size, size]`, of an object placed in a picture; negative inside.

    Args:
        centre: (x, y) in pixels.
        radius: half the side of the object's square, in pixels.
        angle: clockwise rotation in radians.
        mirrored: whether left and right are swapped.
    """
    axis = np.arange(size, dtype=np.float32) + 0.5
    dx = (axis[None, :] - centre[0]) / radius
    dy = (axis[:, None] - centre[1]) / radius
    x = math.cos(angle) * dx + math.sin(angle) * dy
    y = -math.sin(angle) * dx + math.cos(angle) * dy
    if mirrored:
        x = -x
    rows = (y + 2) * TEMPLATE_SIZE / 4 - 0.5
    columns = (x + 2) * TEMPLATE_SIZE / 4 - 0.5
    template = signed_distance_template(noun)
    from scipy.ndimage import map_coordinates

    distance = map_coordinates(template, [rows, columns], order=1, mode="nearest")
    # Beyond the template, add the distance to its border, so that the field keeps growing.
    beyond = np.hypot(np.maximum(np.abs(x) - 2, 0), np.maximum(np.abs(y) - 2, 0))
    return ((distance + beyond) * radius).astype(np.float32)
