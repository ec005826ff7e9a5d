"""Pictures in a row with their captions, such as one prompt under edits of rising strength."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from matplotlib.figure import Figure

INCHES = 1.8


def strip(pictures: Sequence[tuple[str, UInt8[np.ndarray, "h w 3"]]], *, title: str) -> bytes:
    """A PNG: the pictures with hard pixels, side by side, each below its caption."""
    figure = Figure(figsize=(INCHES * len(pictures), INCHES + 0.6), dpi=120, layout="constrained")
    for place, (caption, picture) in enumerate(pictures, start=1):
        axes = figure.add_subplot(1, len(pictures), place)
        axes.imshow(picture, interpolation="nearest")
        axes.set_title(caption, fontsize=9, parse_math=False)
        axes.set_axis_off()
    figure.suptitle(title, fontsize=10, wrap=True, parse_math=False)
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()
