"""The annotations of a set of pictures, kept on disk so that no picture is annotated twice."""

from __future__ import annotations

import json
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
from diffusae.parsing import of_type, reading
from diffusae.table_files import Kind, read_table

Masks = dict[str, BoolImage]
Picture = tuple[str, Images, str]
"""Image id, uint8 [H, W, 3], caption."""

LOOKS = ("first", "second")
_COLUMNS: Mapping[str, Kind] = {
    "look": "text", "image_id": "text", "noun": "text",
    "height": "whole", "width": "whole", "mask": "bytes",
}  # fmt: skip
_MOST_PIXELS = 2**28
"""The largest mask: 16384 x 16384."""


class PackedMasks(Mapping[str, Masks]):
    """Image id -> noun -> bool [H, W]. Masks stay packed until they are read.

    At 512 x 512 a packed mask takes some 2 kB instead of 262. A picture without masks has an empty
    entry.
    """

    def __init__(self, image_ids: Iterable[str] = ()) -> None:
        self._packed: dict[str, dict[str, tuple[int, int, bytes]]] = {
            image_id: {} for image_id in image_ids
        }

    def add(self, image_id: str, masks: Mapping[str, BoolImage]) -> None:
        """Store the masks of one picture."""
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
        """Add one of `rows` back; `UserError` for a size that no picture has."""
        if height < 1 or width < 1 or height * width > _MOST_PIXELS:
            raise UserError(
                f"the mask of {noun!r} in picture {image_id!r} has the size {height} x {width}"
            )
        self._packed[image_id][noun] = (height, width, packed)

    def nouns(self, image_id: str) -> list[str]:
        """The nouns of a picture, without unpacking its masks."""
        return list(self._packed[image_id])

    def __getitem__(self, image_id: str) -> Masks:
        masks = {}
        for noun, (height, width, packed) in self._packed[image_id].items():
            unpacked = _unpacked(packed, -(-height * width // 8), noun, image_id)
            bits = np.unpackbits(np.frombuffer(unpacked, np.uint8), count=height * width)
            masks[noun] = bits.reshape(height, width).astype(np.bool_)
        return masks

    def __iter__(self) -> Iterator[str]:
        return iter(self._packed)

    def __len__(self) -> int:
        return len(self._packed)


def _unpacked(packed: bytes, size: int, noun: str, image_id: str) -> bytes:
    """Decompress to exactly `size` bytes; at most one byte more is ever produced."""
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
        second: masks of the mirrored picture, mirrored back: they show the annotator's own noise.
        described: one row a picture: image_id, style, and as JSON its `colours` and `factors`.
    """

    masks: PackedMasks
    second: PackedMasks
    described: pd.DataFrame

    def colours(self) -> dict[str, dict[str, str]]:
        """Image id -> noun -> its colour; empty where the annotator knows no colours."""
        return self._named("colours")

    def factors(self) -> dict[str, dict[str, str]]:
        """Image id -> factor, such as style, -> its value; empty without factors."""
        return self._named("factors")

    def _named(self, column: str) -> dict[str, dict[str, str]]:
        """A column of JSON objects; `UserError` in annotations that were made without it."""
        if column not in self.described.columns:
            raise UserError(
                f"these annotations were made before {column} were kept; remove the study's"
                " annotations and run `diffusae annotate`"
            )
        named = {}
        for image_id, text in zip(self.described["image_id"], self.described[column], strict=True):
            with reading(f"{column} of picture {image_id}", remedy="annotate again"):
                named[image_id] = of_type(json.loads(text), dict[str, str], column)
        return named

    def save(self, directory: Path | str) -> None:
        """Write objects.parquet and pictures.parquet atomically; masks are zlib-compressed bits."""
        directory = Path(directory)
        looks = zip(LOOKS, (self.masks, self.second), strict=True)
        rows = [(look, *row) for look, masks in looks for row in masks.rows()]
        objects = pd.DataFrame(rows, columns=list(_COLUMNS))
        for name, table in (("objects", objects), ("pictures", self.described)):
            with atomic_path(directory / f"{name}.parquet") as temporary:
                table.to_parquet(temporary, engine="pyarrow", index=False)

    @classmethod
    def load(cls, directory: Path | str) -> Annotations:
        """Read what `save` wrote; `UserError` when a file is missing or unreadable."""
        directory = Path(directory)
        remedy = f"remove {directory} and run `diffusae annotate`"
        try:
            objects = read_table(verified(directory / "objects.parquet"), _COLUMNS, remedy=remedy)
            columns: Mapping[str, Kind] = {"image_id": "text", "style": "any"}
            described = read_table(verified(directory / "pictures.parquet"), columns, remedy=remedy)
        except FileNotFoundError as error:
            raise UserError(f"{error.filename} is missing; {remedy}") from None
        masks = {look: PackedMasks(described["image_id"]) for look in LOOKS}
        with reading(directory / "objects.parquet", remedy=remedy):
            for look, image_id, *mask in objects[list(_COLUMNS)].itertuples(index=False):
                if look not in masks or image_id not in masks[look]:
                    raise UserError(
                        f"it has the look {look!r} of picture {image_id!r}, which pictures.parquet"
                        " does not list"
                    )
                masks[look].restore(image_id, *mask)
        return cls(masks=masks["first"], second=masks["second"], described=described)


def annotate_pictures(
    annotator: Annotator, pictures: Iterable[Picture], *, at_once: int = 64
) -> Annotations:
    """Annotate every picture and its mirror image; at most `at_once` pictures are in memory.

    The mirrored picture shows the same objects. Where its masks, mirrored back, differ from the
    first ones, the annotator is unsure. Their IoU bounds what a prediction of these masks can get.
    """
    masks, second = PackedMasks(), PackedMasks()
    described: list[tuple[str, str | None, str, str]] = []
    coming = iter(pictures)
    while batch := list(islice(coming, at_once)):
        image_ids, images, captions = zip(*batch, strict=True)
        stack = np.stack(images)
        for image_id, one in zip(image_ids, annotator.annotate(stack, captions), strict=True):
            masks.add(image_id, one.masks)
            named = json.dumps(one.colours), json.dumps(one.factors)
            described.append((image_id, one.style, *named))
        mirrored = annotator.annotate(np.ascontiguousarray(stack[:, :, ::-1]), captions)
        for image_id, one in zip(image_ids, mirrored, strict=True):
            second.add(image_id, {noun: mask[:, ::-1] for noun, mask in one.masks.items()})
    table = pd.DataFrame(described, columns=["image_id", "style", "colours", "factors"])
    return Annotations(masks=masks, second=second, described=table)
