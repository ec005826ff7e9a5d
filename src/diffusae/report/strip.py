"""Pictures in rows with their captions, such as one prompt under edits of rising strength."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from matplotlib.figure import Figure

INCHES = 1.8

Captioned = tuple[str, UInt8[np.ndarray, "h w 3"] | None]
"""A caption and its picture; None leaves the place empty."""


class StripFigure(Figure):
    """A figure that a notebook shows, whether or not pyplot was imported there."""

    def _repr_png_(self) -> bytes:
        return png_of(self)


def strip(pictures: Sequence[Captioned], *, title: str) -> bytes:
    """A PNG: the pictures with hard pixels, side by side, each below its caption."""
    return png_of(strip_figure(pictures, title=title))


def strip_figure(
    pictures: Sequence[Captioned], *, title: str, columns: int | None = None
) -> StripFigure:
    """The pictures with hard pixels, `columns` in a row (None: all), each below its caption."""
    columns = columns or len(pictures)
    rows = math.ceil(len(pictures) / columns)
    size = (INCHES * columns, INCHES * rows + 0.6)
    figure = StripFigure(figsize=size, dpi=120, layout="constrained")
    for place, (caption, picture) in enumerate(pictures, start=1):
        axes = figure.add_subplot(rows, columns, place)
        axes.set_axis_off()
        axes.set_title(caption, fontsize=9, parse_math=False)
        if picture is not None:
            axes.imshow(picture, interpolation="nearest")
    figure.suptitle(title, fontsize=10, wrap=True, parse_math=False)
    return figure


def png_of(figure: Figure) -> bytes:
    """The figure as the bytes of a PNG."""
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()
