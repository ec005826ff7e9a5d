"""Decoding a picture, and resizing it to the size of a model."""

from __future__ import annotations

import io
import warnings
from typing import BinaryIO

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from diffusae.contents import HEAD_BYTES, foreign

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
"""Formats that are read. None of them runs code or another program."""

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
OTHER_SUFFIXES = (
    ".gif", ".heic", ".heif", ".avif", ".svg", ".jp2", ".jxl", ".psd", ".jfif", ".ppm", ".tga",
)  # fmt: skip
"""Suffixes of pictures that are not read."""

MOST_BYTES = 2**28
"""Limit of an encoded picture."""
_OTHERS = {b"GIF8": "a GIF", b"%!PS": "PostScript", b"<svg": "an SVG", b"8BPS": "a Photoshop file"}


class Undecodable(ValueError):
    """A picture cannot be decoded, for the reason in the message."""


def decoded(data: bytes | BinaryIO) -> UInt8[np.ndarray, "height width 3"]:
    """The pixels as RGB, turned as the camera's data say. The contents decide the format.

    Transparency and colour profiles are ignored, CMYK is converted, and values of 16 bits keep
    their upper 8.

    Raises:
        Undecodable: it is empty, cut, damaged, animated or not of `FORMATS`, has values of 32 bits,
            more than `MOST_BYTES`, or more than `Image.MAX_IMAGE_PIXELS` (about 89 million pixels).
    """
    stream = io.BytesIO(data) if isinstance(data, bytes) else data
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about metadata, which is not used
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return _decoded(stream)
    except Undecodable:
        raise
    except UnidentifiedImageError as error:
        stream.seek(0)
        raise Undecodable(_what(stream.read(HEAD_BYTES))) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Undecodable(f"{error}; make it smaller") from error
    except Exception as error:  # damaged bytes may raise anything
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise Undecodable(reason[:200]) from error


def _decoded(stream: BinaryIO) -> UInt8[np.ndarray, "height width 3"]:
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    if not size:
        raise Undecodable("it is empty")
    if size > MOST_BYTES:
        raise Undecodable(f"it has {size} bytes, more than {MOST_BYTES}; make it smaller")
    with Image.open(stream, formats=FORMATS) as image:
        if image.format == "PNG":
            image.verify()  # decoding alone ignores the checksums
    stream.seek(0)
    with Image.open(stream, formats=FORMATS) as image:
        # MPO is a photo with a second one that viewers do not show.
        if image.format != "MPO" and getattr(image, "is_animated", False):
            raise Undecodable("it has several frames or pages; save one of them")
        if image.mode in ("I", "F"):
            raise Undecodable("its values have 32 bits; save it with 8")
        ImageOps.exif_transpose(image, in_place=True)
        if image.mode.startswith("I;16"):
            upper = (np.asarray(image) >> 8).astype(np.uint8)
            return np.asarray(Image.fromarray(upper).convert("RGB"))
        return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _what(head: bytes) -> str:
    """The kind of a file that is no picture of `FORMATS`, by its first bytes."""
    if what := foreign(head):
        return f"it is {what}"
    of_boxes = head[8:12].decode("ascii", "replace") if head[4:8] == b"ftyp" else ""
    other = next((name for magic, name in _OTHERS.items() if head.startswith(magic)), of_boxes)
    known = f"{', '.join(FORMATS[:-1])} and {FORMATS[-1]} are read"
    if other:
        return f"it is {other}, but only {known}; convert it"
    return f"it is damaged or no picture: {known}"


def fitted(
    picture: UInt8[np.ndarray, "h w 3"], height: int, width: int
) -> UInt8[np.ndarray, "height width 3"]:
    """The largest central part of the wanted shape, resized (Lanczos). A fitting picture is not
    changed."""
    if picture.shape[:2] == (height, width):
        return picture
    image = ImageOps.fit(Image.fromarray(picture), (width, height), method=Image.Resampling.LANCZOS)
    return np.asarray(image)
