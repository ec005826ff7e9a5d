"""The parts of a collection of activations: cells, streams, images, shards, groups of images."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np

from diffusae.activations.places import place_faults
from diffusae.errors import UserError, together, unknown
from diffusae.parsing import of_type, typed

SCHEMA_VERSION = 1
CONDITIONINGS = ("cond", "uncond")
IMAGES = "images"
GROUPS = "groups"
ATTENTION = "attention"
"""The block of streams of the model's own attention to the text: positions of the finest grid x
tokens of the prompt. Their samples may keep some tokens alone (`CollectedSample.columns`).
"""

CONCEPTS = "concept_attention"
"""The block of streams of ConceptAttention: positions of the finest grid x concepts, which the
manifest's header names.
"""
BESIDE_UPDATES = (ATTENTION, CONCEPTS)
"""Streams of what is read beside the autoencoders, and not trained on."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_]*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
# webdataset ends a key at its first dot. The name field of a tar has 100 bytes.
_IMAGE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}")
_RESERVED_META = ("prompt", "seed", "split", "positions", "columns")


def stream_folder(block: str, t: float, conditioning: str) -> str:
    """The folder of one stream below the collection's root, such as `mid/t0.50/cond`."""
    return f"{block}/t{t:.2f}/{conditioning}"


def _coordinate_faults(block: str, t: float, conditioning: str) -> list[str]:
    faults = []
    if not _NAME.fullmatch(block) or block in (IMAGES, GROUPS):
        faults.append(
            f"block {block!r} must consist of letters, digits and _, not be {IMAGES!r} or "
            f"{GROUPS!r}; give it a short name such as 'mid'"
        )
    if not 0.0 <= t <= 1.0:
        faults.append(
            f"t={t} lies outside [0, 1] (1 = first reverse step, 0 = last); choose a t between them"
        )
    if conditioning not in CONDITIONINGS:
        faults.append(str(unknown("conditioning", conditioning, CONDITIONINGS)))
    return faults


@dataclass(frozen=True)
class Cell:
    """A (model, block, t, conditioning): one stream of updates and one SAE.

    Args:
        model: the model's short name.
        block: the hooked block's short name.
        t: normalised diffusion time in [0, 1]; 1.0 is the first reverse step.
        conditioning: `cond` or `uncond`.

    Raises:
        UserError: lists all faults of the coordinates.
    """

    model: str
    block: str
    t: float
    conditioning: str

    def __post_init__(self) -> None:
        faults = _coordinate_faults(self.block, self.t, self.conditioning)
        if not self.model:
            faults.insert(0, "the model's name is empty; name the model")
        together(faults)
        object.__setattr__(self, "t", float(self.t) + 0.0)  # turns -0.0 into 0.0

    @property
    def key(self) -> str:
        """The cell's name in directories and tables: `mid-t0.50-cond`."""
        return self.folder.replace("/", "-")

    @property
    def folder(self) -> str:
        """The folder of its stream below the activations: `mid/t0.50/cond`."""
        return stream_folder(self.block, self.t, self.conditioning)

    def coordinates(self) -> dict[str, Any]:
        """The four coordinates as a plain dict, as in `results.json` and dashboards."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Stream:
    """The recorded updates of one cell: where they were read, and their shape.

    Args:
        block, t, conditioning: the cell's coordinates (the collection has one model).
        hookpoint: its name: the dotted module path under the denoiser, with the site and the stream
            of the block where they are not the picture's update (`transformer_blocks.11@text`).
        step_index: the sampling step, from 0.
        timestep: the scheduler's own value at that step.
        grid: (height, width) of the positions, row-major.
        d_in: channels of one update vector.
    """

    block: str
    t: float
    conditioning: str
    hookpoint: str
    step_index: int
    timestep: float
    grid: tuple[int, int]
    d_in: int

    def __post_init__(self) -> None:
        faults = _coordinate_faults(self.block, self.t, self.conditioning)
        if len(self.grid) != 2 or min(self.grid) < 1:
            faults.append(
                f"grid={self.grid} must be (height, width), both at least 1; see the hookpoint's "
                "output"
            )
        if self.d_in < 1:
            faults.append(f"d_in={self.d_in} must be at least 1; see the hookpoint's output")
        if self.step_index < 0:
            faults.append(f"step_index={self.step_index} must be at least 0; steps count from 0")
        together(faults)
        object.__setattr__(self, "t", float(self.t) + 0.0)
        object.__setattr__(self, "grid", tuple(self.grid))

    @property
    def folder(self) -> str:
        """The stream's folder below the collection's root: `mid/t0.50/cond`."""
        return stream_folder(self.block, self.t, self.conditioning)

    @property
    def of_tokens(self) -> bool:
        """Whether positions are tokens of a text: the text's stream of a block, or a layer of a
        text encoder. Their number differs from sample to sample."""
        return self.hookpoint.endswith("@text") or self.hookpoint.startswith("text_encoder")

    @property
    def positions(self) -> int:
        """Height times width: the update vectors of an image that keeps all."""
        return self.grid[0] * self.grid[1]

    def cell(self, model: str) -> Cell:
        """The cell that this stream records of `model`."""
        return Cell(model, self.block, self.t, self.conditioning)


@dataclass(frozen=True, kw_only=True)
class CodeStream:
    """The codes of a stream by one autoencoder, which are stored in the place of its updates.

    Args:
        stream: the folder of the stream. tag: of the autoencoder, a plain name.
        d_sae: its latents. sha256: of its weights.
    """

    stream: str
    tag: str
    d_sae: int
    sha256: str

    def __post_init__(self) -> None:
        if not _TAG.fullmatch(self.tag):
            raise UserError(
                f"sae.tag={self.tag!r} becomes a folder of codes and may have letters, digits, '_',"
                " '.' and '-' alone; give the autoencoder such a tag and train it again"
            )

    @property
    def folder(self) -> str:
        """The folder of its shards below the collection's root: `mid/t0.50/cond/k10`."""
        return f"{self.stream}/{self.tag}"


@dataclass(frozen=True, kw_only=True)
class CollectedSample:
    """One image with its updates at every stream.

    Args:
        image_id: letters, digits, `_` and `-`, at most 80 characters; unique in the collection.
        prompt: the caption. seed: the seed of its noise. split: the set that it belongs to.
        updates: stream folder -> [positions, d_in], any float dtype; stored as the collection's.
        positions: stream folder -> the grid positions of the rows of `updates`, ascending. Needed
            for every stream of a ragged collection. Otherwise None: the rows are the whole grid.
        columns: the tokens, ascending, that the columns of `ATTENTION` are. None: all.
        image: uint8 [height, width, 3], or None if images are not kept.
        meta: further plain JSON, stored beside prompt, seed and split.
    """

    image_id: str
    prompt: str
    seed: int
    split: str
    updates: Mapping[str, np.ndarray]
    positions: Mapping[str, Sequence[int]] | None = None
    columns: Sequence[int] | None = None
    image: np.ndarray | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        faults = []
        if not _IMAGE_ID.fullmatch(self.image_id):
            faults.append(
                f"image id {self.image_id!r} must be at most 80 letters, digits, _ and -; rename "
                "the image"
            )
        if not _NAME.fullmatch(self.split):
            faults.append(
                f"split {self.split!r} must consist of letters, digits and _; rename the split"
            )
        taken = [name for name in _RESERVED_META if name in self.meta]
        if taken:
            faults.append(
                f"meta of image {self.image_id!r} uses the reserved names {taken}; rename these "
                "entries"
            )
        together(faults)


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A finished tar. `path` is relative to the root; `stream` is its stream's folder or `images`.

    `vectors` is its number of update vectors in a ragged collection, None in any other.
    """

    path: str
    stream: str
    split: str
    samples: int
    bytes: int
    sha256: str
    vectors: int | None = None

    def __post_init__(self) -> None:
        counts = {"samples": self.samples, "bytes": self.bytes, "vectors": self.vectors or 0}
        faults = [
            f"{name}={count!r} of shard {self.path} must be a whole number from 0"
            for name, count in counts.items()
            if type(count) is not int or count < 0
        ]
        together(place_faults([asdict(self)], "it") + faults)

    @property
    def units(self) -> int:
        """The number of units that an epoch shuffles: samples, or vectors in a ragged
        collection."""
        return self.samples if self.vectors is None else self.vectors

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, without `vectors` if it is None."""
        value = asdict(self)
        if self.vectors is None:
            value.pop("vectors")
        return value


@dataclass(frozen=True, kw_only=True)
class Group:
    """The journal of one finished group of images: its shards and its rejected images."""

    index: int
    split: str
    count: int
    rejected: tuple[dict[str, Any], ...]
    image_size: tuple[int, int] | None
    shards: tuple[Shard, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, with the shards keyed by path."""
        shards = {
            s.path: {
                "stream": s.stream,
                "sha256": s.sha256,
                "bytes": s.bytes,
                "samples": s.samples,
                **({} if s.vectors is None else {"vectors": s.vectors}),
            }
            for s in self.shards
        }
        return {
            "index": self.index,
            "split": self.split,
            "count": self.count,
            "rejected": list(self.rejected),
            "image_size": self.image_size,
            "shards": shards,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`. Raises `UserError` on anything else."""
        split, shards = value.get("split"), value.get("shards")
        if isinstance(shards, dict):
            shards = [
                {**of_type(rest, dict, path), "path": path, "split": split}
                for path, rest in shards.items()
            ]
        return typed(cls, {**value, "shards": shards})


def bytes_per_image(
    streams: Sequence[Stream],
    *,
    image_size: tuple[int, int] | None = None,
    bytes_per_number: int = 2,
) -> int:
    """An upper estimate of the bytes of one image on disk: updates, and a picture at 3 bytes a
    pixel.

    A tar pads members to 512 bytes and adds headers of 512. The npy header has 128 bytes, the JSON
    about 1,000.
    """
    overhead = 3 * 512 + 2 * 512 + 1024
    updates = sum(
        stream.positions * stream.d_in * bytes_per_number + 128 + overhead for stream in streams
    )
    picture = math.prod(image_size) * 3 + overhead if image_size else 0
    return updates + picture
