"""One encoded picture as pixels, at the size that a model takes."""

from __future__ import annotations

import io
from typing import BinaryIO

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
"""Formats that are read: none of them runs code or another program."""

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


class Undecodable(ValueError):
    """A picture that does not decode; the message says why."""


def decoded(data: bytes | BinaryIO) -> UInt8[np.ndarray, "height width 3"]:
    """The pixels as RGB, turned the way its camera says; transparency is dropped.

    Raises:
        Undecodable: it is cut, damaged, too large to be meant, or of no format in `FORMATS`.
    """
    try:
        with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data, formats=FORMATS) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise Undecodable((str(error).strip() or type(error).__name__).splitlines()[0]) from error


def fitted(
    picture: UInt8[np.ndarray, "h w 3"], height: int, width: int
) -> UInt8[np.ndarray, "height width 3"]:
    """The largest part in the middle of the wanted shape, resized (Lanczos); a picture of that size stays as it is."""
    if picture.shape[:2] == (height, width):
        return picture
    image = ImageOps.fit(Image.fromarray(picture), (width, height), method=Image.Resampling.LANCZOS)
    return np.asarray(image)
