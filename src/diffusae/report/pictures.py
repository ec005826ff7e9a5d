"""Pictures, masks and heat maps of the report as inline SVG; every distinct picture is in the page
once.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float, UInt8
from markupsafe import Markup
from PIL import Image

from diffusae.concepts.montage import heat_colours

# A picture up to this size is kept bit by bit and enlarged with hard pixels; a larger one is shrunk
# to LARGEST and compressed.
SMALL = 96
LARGEST = 224


class PictureBook:
    """Gives SVG elements for pictures, and keeps what they share (`definitions`, to be put in the
    page once).
    """

    def __init__(self) -> None:
        self._ids: dict[bytes, str] = {}
        self._definitions: list[Markup] = []

    @property
    def definitions(self) -> Markup:
        """What the elements given so far refer to."""
        return Markup("\n").join(self._definitions)

    def picture(
        self, image: UInt8[np.ndarray, "H W 3"], *, alt: str, layers: Sequence[Markup] = ()
    ) -> Markup:
        """A picture with layers on top, and its text alternative."""
        content = f"{image.shape}".encode() + image.tobytes()
        return _element(
            self._shared(content, lambda: _drawn(image)), *layers, height=_height(image), alt=alt
        )

    def outline(
        self, mask: Bool[np.ndarray, "H W"], image: UInt8[np.ndarray, "h w 3"], colour: str
    ) -> Markup:
        """A layer: the outline of a mask, stretched over the picture."""
        drawn = _path(mask, image, f'class="outline" stroke="{colour}"')
        return self._shared(drawn.encode(), lambda: drawn)

    def _shared(self, content: bytes, draw: Callable[[], Markup]) -> Markup:
        """A reference to what `draw` gives; it is asked once for each distinct content."""
        digest = hashlib.sha256(content).digest()
        if digest not in self._ids:
            self._ids[digest] = f"shared-{len(self._ids)}"
            self._definitions.append(Markup('<g id="{}">{}</g>').format(self._ids[digest], draw()))
        return Markup('<use href="#{}"/>').format(self._ids[digest])


def region(mask: Bool[np.ndarray, "H W"], image: UInt8[np.ndarray, "h w 3"], colour: str) -> Markup:
    """A layer: a mask filled with a translucent colour."""
    return _path(mask, image, f'class="region" fill="{colour}"')


def pale(image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
    """The picture in pale grey, so that what lies on top stands out."""
    grey = image @ np.array([0.2126, 0.7152, 0.0722])
    return np.repeat((160 + grey * 95 / 255).round().astype(np.uint8)[..., None], 3, axis=2)


def heat(
    values: Float[np.ndarray, "h w"],
    image: UInt8[np.ndarray, "H W 3"],
    *,
    high: float,
    opacity: float = 0.62,
) -> Markup:
    """A layer: a heat map from 0 (dark) to `high` (bright), stretched smoothly over the picture."""
    uri = _png_uri(heat_colours(values, low=0.0, high=high))
    return Markup(
        '<image class="heat" width="100" height="{}" preserveAspectRatio="none" opacity="{}"'
        ' href="{}"/>'
    ).format(_height(image), opacity, uri)


def score_map(
    values: Float[np.ndarray, "h w"],
    image: UInt8[np.ndarray, "H W 3"],
    *,
    alt: str,
    layers: Sequence[Markup] = (),
) -> Markup:
    """A map without its picture, position by position, from its own lowest value (dark) to its
    highest.
    """
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    drawn = Markup(
        '<image class="pixels" width="100" height="{}" preserveAspectRatio="none" href="{}"/>'
    ).format(_height(image), _png_uri(heat_colours(values, low=low, high=high)))
    return _element(drawn, *layers, height=_height(image), alt=alt)


def outline_path(mask: Bool[np.ndarray, "H W"]) -> str:
    """SVG path data of the closed outlines of a mask, along the edges of its pixels; "" for an
    empty mask.

    Holes run the other way round, so both fill rules give the mask back.
    """
    successors: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    inside = np.pad(mask, 1)
    # Corners (x, y) of each pixel, clockwise on the screen; an edge counts where the neighbour is
    # outside.
    for (dy, dx), start, end in (
        ((-1, 0), (0, 0), (1, 0)),
        ((0, 1), (1, 0), (1, 1)),
        ((1, 0), (1, 1), (0, 1)),
        ((0, -1), (0, 1), (0, 0)),
    ):
        neighbour = np.roll(inside, (-dy, -dx), axis=(0, 1))
        for y, x in np.argwhere(inside & ~neighbour).tolist():
            successors[x - 1 + start[0], y - 1 + start[1]].append((x - 1 + end[0], y - 1 + end[1]))
    loops = []
    for origin in sorted(successors):
        while successors[origin]:
            point, loop = origin, [origin]
            while (point := successors[point].pop()) != origin:
                loop.append(point)
            loops.append(_loop_data(loop))
    return "".join(loops)


def _loop_data(loop: list[tuple[int, int]]) -> str:
    data = f"M{loop[0][0]} {loop[0][1]}"
    following = [*loop[1:], loop[0]]
    for index, (x, y) in enumerate(following[:-1]):
        before, after = loop[index], following[index + 1]
        if before[1] == y != after[1]:  # a step along x ends in a corner
            data += f"H{x}"
        elif before[0] == x != after[0]:
            data += f"V{y}"
    return data + "Z"


def _path(
    mask: Bool[np.ndarray, "H W"], image: UInt8[np.ndarray, "h w 3"], attributes: str
) -> Markup:
    scale = f"{100 / mask.shape[1]:.6g} {_height(image) / mask.shape[0]:.6g}"
    return Markup(f'<path {attributes} transform="scale({scale})" d="{outline_path(mask)}"/>')


def _element(*layers: Markup, height: float, alt: str) -> Markup:
    head = Markup('<svg class="picture" viewBox="0 0 100 {}" role="img" aria-label="{}">').format(
        height, alt
    )
    return head + Markup("").join(layers) + Markup("</svg>")


def _drawn(image: UInt8[np.ndarray, "H W 3"]) -> Markup:
    kind = Markup(' class="pixels"') if max(image.shape[:2]) <= SMALL else ""
    return Markup('<image width="100" height="{}" preserveAspectRatio="none" href="{}"{}/>').format(
        _height(image), _data_uri(image), kind
    )


def _height(image: UInt8[np.ndarray, "h w 3"]) -> float:
    """Every picture is 100 wide; this is its height, with the aspect kept."""
    return round(100 * image.shape[0] / image.shape[1], 2)


def _data_uri(image: UInt8[np.ndarray, "H W 3"]) -> str:
    if max(image.shape[:2]) <= SMALL:
        return _png_uri(image)
    shrunk = Image.fromarray(image)
    shrunk.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    shrunk.save(buffer, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _png_uri(image: UInt8[np.ndarray, "H W 3"]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
