"""Collected pictures and their thumbnails, made when they are first asked for."""

from __future__ import annotations

import io
from functools import cached_property

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from diffusae.activations.manifest import Manifest
from diffusae.activations.one_picture import OnePicture
from diffusae.activations.schema import IMAGES
from diffusae.errors import UserError
from diffusae.explorer.kept import Kept
from diffusae.labelling.class_labels import caption_of
from diffusae.study.study import Study

THUMBNAIL = 160
"""Pixels of a thumbnail's longer side. A picture that is smaller keeps its pixels."""
MOST_KEPT = 64 << 20
"""Bytes of thumbnails in memory: some 10,000."""


class Pictures:
    """The pictures that a study's collection keeps.

    Args:
        settings: the study's configuration.
    """

    def __init__(self, settings: Study) -> None:
        self._settings = settings
        self._thumbnails: Kept[bytes] = Kept(MOST_KEPT, len)

    @cached_property
    def stored(self) -> OnePicture:
        """Where the pictures of the splits dictionary, tune and test are.

        Raises:
            UserError: the collection is not finished, or has been removed.
        """
        root = self._settings.held_out.activations
        return OnePicture(root, Manifest.load(root))

    @property
    def missing(self) -> str:
        """Why there are no pictures; "" where there are some."""
        try:
            manifest = self.stored.manifest
        except UserError as error:
            return f"The pictures are not at hand: {error}"
        return "" if manifest.image_size else "This study keeps no pictures."

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of every picture; a square where there are none."""
        return (not self.missing and self.stored.manifest.image_size) or (1, 1)

    def png(self, image_id: str) -> bytes | None:
        """A picture as it is stored; None: there is no such picture.

        Raises:
            UserError: its shard is missing or damaged.
        """
        return None if self.missing else self.stored.image(image_id)

    def pixels(self, image_id: str) -> UInt8[np.ndarray, "height width 3"] | None:
        """The pixels of a picture; None and errors as in `png`."""
        if (data := self.png(image_id)) is None:
            return None
        try:
            with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
                if (image.height, image.width) != self.size:  # before decoding: it may claim any
                    raise ValueError(f"it has {image.height} x {image.width} pixels")
                return np.asarray(image.convert("RGB"))
        except (OSError, ValueError, SyntaxError) as error:
            raise UserError(
                f"the picture {image_id} cannot be read ({error}); run `diffusae collect` with the"
                " same settings to make it again"
            ) from error

    def thumbnail(self, image_id: str) -> bytes | None:
        """A small WebP of a picture; None and errors as in `png`."""
        try:
            return self._thumbnails.get(image_id, lambda: self._thumbnail(image_id))
        except _NoPicture:
            return None

    def _thumbnail(self, image_id: str) -> bytes:
        if (pixels := self.pixels(image_id)) is None:
            raise _NoPicture
        image, buffer = Image.fromarray(pixels), io.BytesIO()
        small = max(image.size) <= THUMBNAIL
        image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
        image.save(buffer, "WEBP", lossless=small, quality=80)
        return buffer.getvalue()

    def caption(self, image_id: str) -> str:
        """The caption of a picture; "" where it is not known, or its shard is damaged: then the
        picture says so.
        """
        if self.missing:
            return ""
        try:
            meta = self.stored.meta(IMAGES, image_id)
            return "" if meta is None else caption_of(meta)
        except (UserError, KeyError):
            return ""


class _NoPicture(Exception):
    """The collection has no such picture."""
