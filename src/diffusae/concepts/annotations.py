"""What an annotator found in a set of pictures, kept on disk so that no picture is annotated
twice.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd

from diffusae.concepts.annotators import Annotator, BoolImage, Images
from diffusae.errors import UserError
from diffusae.files import atomic_path, verified
from diffusae.parsing import reading
from diffusae.table_files import Kind, read_table

Masks = dict[str, BoolImage]
Picture = tuple[str, Images, str]
"""Image id, uint8 [H, W, 3], caption."""

LOOKS = ("first", "second")
_COLUMNS: Mapping[str, Kind] = {
    "look": "text",
    "image_id": "text",
    "noun": "text",
    "height": "whole",
    "width": "whole",
    "mask": "bytes",
}
_MOST_PIXELS = 2**28
"""Of a mask: 16384 x 16384."""


class PackedMasks(Mapping[str, Masks]):
    """Image id -> noun -> bool [H, W], each mask packed until it is looked at: some 2 kB at 512 x
    512 instead of 262.

    A picture in which nothing was found has an empty entry.
    """

    def __init__(self, image_ids: Iterable[str] = ()) -> None:
        self._packed: dict[str, dict[str, tuple[int, int, bytes]]] = {
            image_id: {} for image_id in image_ids
        }

    def add(self, image_id: str, masks: Mapping[str, BoolImage]) -> None:
        """Keep the masks of one picture."""
        self._packed[image_id] = {
            noun: (*mask.shape, zlib.compress(np.packbits(mask).tobytes(), 1))
            for noun, mask in masks.items()
        }

    def rows(self) -> Iterator[tuple[str, str, int, int, bytes]]:
        """(image id, noun, height, width, packed mask) of every mask."""
        for image_id, packed in self._packed.items():
            for noun, mask in packed.items():
                yield image_id, noun, *mask

    def restore(self, image_id: str, noun: str, height: int, width: int, packed: bytes) -> None:
        """The inverse of one of `rows`; `UserError` for a size that no picture has."""
        if height < 1 or width < 1 or height * width > _MOST_PIXELS:
            raise UserError(
                f"the mask of {noun!r} in picture {image_id!r} has the size {height} x {width}"
            )
        self._packed[image_id][noun] = (height, width, packed)

    def nouns(self, image_id: str) -> list[str]:
        """What was found in a picture, without its masks."""
        return list(self._packed[image_id])

    def __getitem__(self, image_id: str) -> Masks:
        found = {}
        for noun, (height, width, packed) in self._packed[image_id].items():
            bits = np.frombuffer(
                _unpacked(packed, -(-height * width // 8), noun, image_id), np.uint8
            )
            found[noun] = (
                np.unpackbits(bits, count=height * width).reshape(height, width).astype(np.bool_)
            )
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._packed)

    def __len__(self) -> int:
        return len(self._packed)


def _unpacked(packed: bytes, size: int, noun: str, image_id: str) -> bytes:
    """Decompressed bytes, which must be `size`; never more than one byte beyond that is made."""
    unpacking = zlib.decompressobj()
    try:
        unpacked = unpacking.decompress(packed, size + 1)
    except zlib.error as error:
        unpacked, reason = b"", str(error)
    else:
        reason = f"{len(unpacked)} bytes or more, expected {size}"
    if len(unpacked) != size or not unpacking.eof:
        raise UserError(
            f"the mask of {noun!r} in picture {image_id!r} is damaged ({reason}); remove the"
            " study's annotations and run `diffusae annotate`"
        )
    return unpacked


@dataclass(frozen=True)
class Annotations:
    """Masks by picture.

    Attributes:
        masks: image id -> noun -> bool [H, W].
        second: the same from a second look at each picture, for the annotator's own noise.
        described: one row a picture: image_id, style.
    """

    masks: PackedMasks
    second: PackedMasks
    described: pd.DataFrame

    def save(self, directory: Path | str) -> None:
        """Write objects.parquet and pictures.parquet, atomically; a mask is its bits, row by row,
        compressed by zlib.
        """
        directory = Path(directory)
        looks = zip(LOOKS, (self.masks, self.second), strict=True)
        objects = pd.DataFrame(
            [(look, *row) for look, found in looks for row in found.rows()], columns=list(_COLUMNS)
        )
        for name, table in (("objects", objects), ("pictures", self.described)):
            with atomic_path(directory / f"{name}.parquet") as temporary:
                table.to_parquet(temporary, engine="pyarrow", index=False)

    @classmethod
    def load(cls, directory: Path | str) -> Annotations:
        """What `save` wrote; `UserError` when a file is missing or unreadable."""
        directory = Path(directory)
        remedy = f"remove {directory} and run `diffusae annotate`"
        try:
            objects = read_table(verified(directory / "objects.parquet"), _COLUMNS, remedy=remedy)
            described = read_table(
                verified(directory / "pictures.parquet"),
                {"image_id": "text", "style": "any"},
                remedy=remedy,
            )
        except FileNotFoundError as error:
            raise UserError(f"{error.filename} is missing; {remedy}") from None
        found = {look: PackedMasks(described["image_id"]) for look in LOOKS}
        with reading(directory / "objects.parquet", remedy=remedy):
            for look, image_id, *mask in objects[list(_COLUMNS)].itertuples(index=False):
                if look not in found or image_id not in found[look]:
                    raise UserError(
                        f"it has the look {look!r} of picture {image_id!r}, which pictures.parquet"
                        " does not list"
                    )
                found[look].restore(image_id, *mask)
        return cls(masks=found["first"], second=found["second"], described=described)


def annotate_pictures(
    annotator: Annotator, pictures: Iterable[Picture], *, at_once: int = 64
) -> Annotations:
    """Annotate pictures as they come, and each a second time in the mirror; no more than `at_once`
    are held.

    The mirrored picture shows the same objects; where its masks, mirrored back, differ from the
    first, the annotator is unsure. Their IoU bounds what any prediction of these masks can reach.
    """
    masks, second = PackedMasks(), PackedMasks()
    described: list[tuple[str, str | None]] = []
    coming = iter(pictures)
    while some := list(islice(coming, at_once)):
        image_ids, images, captions = zip(*some, strict=True)
        stack = np.stack(images)
        for image_id, found in zip(image_ids, annotator.annotate(stack, captions), strict=True):
            masks.add(image_id, found.masks)
            described.append((image_id, found.style))
        mirrored = annotator.annotate(np.ascontiguousarray(stack[:, :, ::-1]), captions)
        for image_id, found in zip(image_ids, mirrored, strict=True):
            second.add(image_id, {noun: mask[:, ::-1] for noun, mask in found.masks.items()})
    table = pd.DataFrame(described, columns=["image_id", "style"])
    return Annotations(masks=masks, second=second, described=table)
