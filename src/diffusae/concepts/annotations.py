"""What an annotator found in a set of pictures, kept on disk so that no picture is annotated twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from diffusae.concepts.annotators import Annotator, BoolImage, Images
from diffusae.errors import UserError
from diffusae.files import atomic_path

Masks = dict[str, BoolImage]


@dataclass(frozen=True)
class Annotations:
    """Masks by picture.

    Attributes:
        masks: image id -> noun -> bool [H, W]. A picture in which nothing was found has an empty entry.
        second: the same from a second look at each picture, for the annotator's own noise.
        described: one row a picture: image_id, style.
    """

    masks: Mapping[str, Masks]
    second: Mapping[str, Masks]
    described: pd.DataFrame

    def save(self, directory: Path | str) -> None:
        """Write objects.parquet, pictures.parquet and masks.safetensors, atomically."""
        directory = Path(directory)
        rows = [
            (look, image_id, noun, mask)
            for look, found in (("first", self.masks), ("second", self.second))
            for image_id, masks in found.items()
            for noun, mask in masks.items()
        ]
        stack = np.stack([mask for *_, mask in rows]) if rows else np.zeros((0, 1, 1), bool)
        with atomic_path(directory / "masks.safetensors") as temporary:
            save_file({"masks": torch.from_numpy(stack)}, temporary)
        objects = pd.DataFrame([row[:3] for row in rows], columns=["look", "image_id", "noun"])
        for name, table in (("objects", objects), ("pictures", self.described)):
            with atomic_path(directory / f"{name}.parquet") as temporary:
                table.to_parquet(temporary, engine="pyarrow", index=False)

    @classmethod
    def load(cls, directory: Path | str) -> Annotations:
        """What `save` wrote; `UserError` when a file is missing or unreadable."""
        directory = Path(directory)
        try:
            objects = pd.read_parquet(directory / "objects.parquet", engine="pyarrow")
            described = pd.read_parquet(directory / "pictures.parquet", engine="pyarrow")
            stack = load_file(directory / "masks.safetensors")["masks"].numpy()
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            problem = f"{directory} holds no readable annotations ({type(error).__name__}: {error})"
            raise UserError(f"{problem}; remove it and run `diffusae annotate`") from error
        found: dict[str, dict[str, Masks]] = {
            look: {image_id: {} for image_id in described["image_id"]} for look in ("first", "second")
        }
        for row, (look, image_id, noun) in enumerate(objects.itertuples(index=False)):
            found[look][image_id][noun] = stack[row]
        return cls(masks=found["first"], second=found["second"], described=described)


def annotate_pictures(
    annotator: Annotator, image_ids: Sequence[str], pictures: Images, captions: Sequence[str] | None = None
) -> Annotations:
    """Annotate pictures uint8 [n, H, W, 3], and each a second time in the mirror; `captions` as in `Annotator`.

    The mirrored picture shows the same objects; where its masks, mirrored back, differ from the first, the
    annotator is unsure. Their IoU bounds what any prediction of these masks can reach.
    """
    first = annotator.annotate(pictures, captions)
    second = annotator.annotate(np.ascontiguousarray(pictures[:, :, ::-1]), captions)
    described = pd.DataFrame({"image_id": list(image_ids), "style": [found.style for found in first]})
    return Annotations(
        masks={i: dict(found.masks) for i, found in zip(image_ids, first, strict=True)},
        second={
            i: {noun: np.ascontiguousarray(mask[:, ::-1]) for noun, mask in found.masks.items()}
            for i, found in zip(image_ids, second, strict=True)
        },
        described=described,
    )
