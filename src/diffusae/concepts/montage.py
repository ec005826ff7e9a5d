"""One picture of a latent: its top pictures in a row, and below them the same with heat maps."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

SIDE = 96
OPACITY = 0.6
_HEAT = matplotlib.colormaps["inferno"]


def montage(
    pictures: Sequence[tuple[UInt8[np.ndarray, "H W 3"], Float[np.ndarray, "h w"]]],
    *,
    side: int = SIDE,
) -> UInt8[np.ndarray, "two_sides n_sides 3"]:
    """The pictures in a row, above the same pictures under their heat maps.

    Every picture is `side` x `side` pixels. All maps share one scale, from 0 to their highest
    value. Without pictures: one grey square above another.
    """
    if not pictures:
        return np.full((2 * side, side, 3), 128, np.uint8)
    high = max(float(np.nan_to_num(heat).max()) for _, heat in pictures)
    columns = []
    for image, heat in pictures:
        picture = _square(image, side)
        colours = _square(heat_colours(heat, low=0.0, high=high), side)
        under = ((1 - OPACITY) * picture + OPACITY * colours).round().astype(np.uint8)
        columns.append(np.concatenate([picture, under]))
    return np.concatenate(columns, axis=1)


def _square(image: UInt8[np.ndarray, "h w 3"], side: int) -> UInt8[np.ndarray, "side side 3"]:
    """Enlarge with hard pixels, or shrink smoothly."""
    way = Image.Resampling.NEAREST if max(image.shape[:2]) <= side else Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(image).resize((side, side), way))


def heat_colours(
    values: Float[np.ndarray, "h w"], *, low: float, high: float
) -> UInt8[np.ndarray, "h w 3"]:
    """Colours of a map; values are cut to [low, high], and what is not finite counts as `low`."""
    scale = high - low if high > low else 1.0
    shares = np.clip((np.nan_to_num(values, nan=low, posinf=low, neginf=low) - low) / scale, 0, 1)
    return (_HEAT(shares)[..., :3] * 255).round().astype(np.uint8)
