"""One encoded picture as pixels, at the size that a model takes."""

from __future__ import annotations

import io
import warnings
from typing import BinaryIO

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from diffusae.contents import HEAD_BYTES, foreign

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
"""Formats that are read: none of them runs code or another program."""

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
OTHER_SUFFIXES = (
    ".gif",
    ".heic",
    ".heif",
    ".avif",
    ".svg",
    ".jp2",
    ".jxl",
    ".psd",
    ".jfif",
    ".ppm",
    ".tga",
)
"""Of pictures that are not read."""

MOST_BYTES = 2**28
"""Of an encoded picture."""
_OTHERS = {b"GIF8": "a GIF", b"%!PS": "PostScript", b"<svg": "an SVG", b"8BPS": "a Photoshop file"}


class Undecodable(ValueError):
    """A picture that does not decode; the message says why."""


def decoded(data: bytes | BinaryIO) -> UInt8[np.ndarray, "height width 3"]:
    """The pixels as RGB, turned the way its camera says. A file's name decides nothing, its
    contents do.

    Transparency is dropped: a pixel has the colour that the file gives it below. CMYK is converted,
    and colour profiles are ignored. Values of 16 bits keep their upper 8.

    Raises:
        Undecodable: it is empty, cut, damaged, animated, of more than `MOST_BYTES` or of more
            pixels than PIL takes for meant (`Image.MAX_IMAGE_PIXELS`, some 89 million), has values
            of 32 bits, or is of no format in `FORMATS`.
    """
    stream = io.BytesIO(data) if isinstance(data, bytes) else data
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata, which nobody reads
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return _decoded(stream)
    except Undecodable:
        raise
    except UnidentifiedImageError as error:
        stream.seek(0)
        raise Undecodable(_what(stream.read(HEAD_BYTES))) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Undecodable(f"{error}; make it smaller") from error
    except Exception as error:  # PIL's readers raise what damaged bytes make of their arithmetic
        raise Undecodable(
            (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        ) from error


def _decoded(stream: BinaryIO) -> UInt8[np.ndarray, "height width 3"]:
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    if not 0 < size <= MOST_BYTES:
        raise Undecodable(
            f"it has {size} bytes, more than {MOST_BYTES}; make it smaller"
            if size
            else "it is empty"
        )
    with Image.open(stream, formats=FORMATS) as image:
        if image.format == "PNG":
            image.verify()  # decoding alone passes over the checksums
    stream.seek(0)
    with Image.open(stream, formats=FORMATS) as image:
        # MPO is a photo with a second one that no viewer shows.
        if image.format != "MPO" and getattr(image, "is_animated", False):
            raise Undecodable("it has several frames or pages; save one of them")
        if image.mode in ("I", "F"):
            raise Undecodable("its values have 32 bits; save it with 8")
        ImageOps.exif_transpose(image, in_place=True)
        if image.mode.startswith("I;16"):
            return np.asarray(
                Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
            )
        return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _what(head: bytes) -> str:
    """What is no picture of `FORMATS`, by its first bytes."""
    if what := foreign(head):
        return f"it is {what}"
    of_boxes = head[8:12].decode("ascii", "replace") if head[4:8] == b"ftyp" else ""
    other = next((name for magic, name in _OTHERS.items() if head.startswith(magic)), of_boxes)
    known = f"{', '.join(FORMATS[:-1])} and {FORMATS[-1]} are read"
    return (
        f"it is {other}, but only {known}; convert it"
        if other
        else f"it is damaged or no picture: {known}"
    )


def fitted(
    picture: UInt8[np.ndarray, "h w 3"], height: int, width: int
) -> UInt8[np.ndarray, "height width 3"]:
    """The largest part in the middle of the wanted shape, resized (Lanczos); a picture of that size
    stays as it is."""
    if picture.shape[:2] == (height, width):
        return picture
    image = ImageOps.fit(Image.fromarray(picture), (width, height), method=Image.Resampling.LANCZOS)
    return np.asarray(image)
