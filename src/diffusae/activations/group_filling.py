"""One group of images: an image is checked and written to all of the group's tars or to none."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from diffusae.activations.hashed_tar import HashedTar, png_bytes
from diffusae.activations.npy import npy_bytes
from diffusae.activations.schema import ATTENTION, IMAGES, CollectedSample, Group, Shard, Stream
from diffusae.activations.stored_numbers import StoredNumbers
from diffusae.activations.subsampling import Subsampling
from diffusae.errors import UserError

logger = logging.getLogger(__name__)

Encode = Callable[[np.ndarray], bytes]
"""The stored codes of one picture's updates [positions, d_in], rounded as they are stored."""


def plain_json(what: str, value: Any) -> Any:
    """`value` after a round trip through JSON. `UserError` if it is not plain JSON, or has NaN."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{what} must be plain JSON ({error}); give numbers, strings, lists and dicts"
        ) from error


class GroupFilling:
    """The state of one group while its images come in.

    Args:
        streams: folder -> stream.
        tars: folder (or `images`) -> open tar. Updates and pictures are kept if there is a tar for
            them.
        encoders: folder of codes, which has a tar -> the stream's folder, and what encodes it.
        image_size: (height, width) of the collection's pictures, if known already.
        subsampling: which positions are stored; None: all.
        ragged: records differ in length and list the positions of their rows.
        numbers: how updates are stored.
    """

    def __init__(
        self,
        *,
        streams: Mapping[str, Stream],
        tars: Mapping[str, HashedTar],
        encoders: Mapping[str, tuple[str, Encode]] | None = None,
        image_size: tuple[int, int] | None,
        subsampling: Subsampling | None = None,
        ragged: bool = False,
        numbers: StoredNumbers,
    ) -> None:
        self.subsampling, self.ragged, self.numbers = subsampling, ragged, numbers
        self.vectors = dict.fromkeys(streams, 0)
        """folder -> vectors written."""
        self.streams, self.tars, self.image_size = streams, tars, image_size
        self.encoders = encoders or {}
        self.split: str | None = None
        self.count = 0
        self.rejected: list[dict[str, Any]] = []
        self.overflown: set[str] = set()
        """Folders of streams with finite updates that are infinite as the stored type."""
        self._ids: set[str] = set()

    def add(self, record: CollectedSample) -> None:
        """Write one image; reject it from all streams if a stored update is not finite.

        Raises:
            UserError: as `kept`, or its picture does not fit.
        """
        image = self._checked_image(record) if IMAGES in self.tars else None
        details = {"prompt": record.prompt, "seed": record.seed, "split": record.split}
        details = plain_json(f"meta of image {record.image_id!r}", {**details, **record.meta})
        kept = self.kept(record)
        if kept is None:
            return
        text = _json_bytes(details)
        for folder, (stream, encode) in self.encoders.items():
            codes = encode(self.numbers.decode(kept[stream][0]))
            self.tars[folder].add(record.image_id, safetensors=codes)
        for folder, (array, positions) in kept.items():
            if folder not in self.tars:
                continue
            listed: dict[str, list[int]] = {}
            if self.ragged or len(array) < len(record.updates[folder]):
                listed["positions"] = positions.tolist()
            if (columns := _columns(record, self.streams[folder])) is not None:
                listed["columns"] = columns
            meta = _json_bytes({**details, **listed}) if listed else text
            self.tars[folder].add(record.image_id, npy=npy_bytes(array), json=meta)
            self.vectors[folder] += len(array)
        if image is not None:
            self.tars[IMAGES].add(record.image_id, png=png_bytes(image), json=text)
        self.count += 1

    def kept(self, record: CollectedSample) -> dict[str, tuple[np.ndarray, np.ndarray]] | None:
        """What is stored of one image: folder -> its rows as stored numbers, and their positions.
        None: it is rejected, because a stored update is not finite.

        Raises:
            UserError: the split differs, the id repeats, or streams or shapes do not fit.
        """
        if record.split != (self.split or record.split):
            raise UserError(
                f"a group holds one split, but has {self.split!r} and {record.split!r}; group by "
                "split"
            )
        if record.image_id in self._ids:
            raise UserError(
                f"image id {record.image_id!r} comes twice in one group; ids must be unique"
            )
        self.split = record.split
        self._ids.add(record.image_id)
        updates = self._checked_updates(record)
        if self._reject_nonfinite(record, updates):
            return None
        kept, drawn = {}, {}
        for folder, array in updates.items():
            size = len(array)
            given = record.positions
            positions = np.asarray(given[folder]) if given else np.arange(size)
            if self.subsampling is not None and self.subsampling.kept(record.split, size) < size:
                if size not in drawn:
                    drawn[size] = self.subsampling.draw(record.image_id, size)
                array, positions = array[drawn[size]], positions[drawn[size]]
            kept[folder] = array, positions
        return kept

    def _checked_updates(self, record: CollectedSample) -> dict[str, np.ndarray]:
        if set(record.updates) != set(self.streams):
            raise UserError(
                f"image {record.image_id!r} comes with updates of {sorted(record.updates)}, the "
                f"collection records {sorted(self.streams)}; give exactly these"
            )
        arrays = {}
        for folder, stream in self.streams.items():
            array = np.asarray(record.updates[folder])
            columns = _columns(record, stream)
            width = stream.d_in if columns is None else len(columns)
            shape = (self._positions(record, stream), width)
            if array.shape != shape:
                raise UserError(
                    f"image {record.image_id!r} at {folder} has shape {array.shape}, the stream has"
                    f" {shape} [positions, d_in]; check the hookpoint's grid"
                )
            # An overflow becomes infinite here and is rejected later
            arrays[folder] = self.numbers.encode(array)
        return arrays

    def _positions(self, record: CollectedSample, stream: Stream) -> int:
        """The number of rows of a record in a stream."""
        if not self.ragged:
            return stream.positions
        named = list((record.positions or {}).get(stream.folder, ()))
        if (
            not named
            or named != sorted(set(named))
            or named[0] < 0
            or named[-1] >= stream.positions
        ):
            raise UserError(
                f"image {record.image_id!r} at {stream.folder} has the positions {named}; give at"
                f" least one, ascending, from 0 to {stream.positions - 1}"
            )
        return len(named)

    def _checked_image(self, record: CollectedSample) -> np.ndarray:
        image = record.image
        if image is None or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            actual = "none" if image is None else f"{image.dtype} {image.shape}"
            raise UserError(
                f"image {record.image_id!r} must be uint8 [height, width, 3], is {actual}; convert "
                "it"
            )
        size = (image.shape[0], image.shape[1])
        if size != (self.image_size or size):
            raise UserError(
                f"image {record.image_id!r} has size {size}, earlier images have "
                f"{self.image_size}; use one"
            )
        self.image_size = size
        return image

    def _reject_nonfinite(self, record: CollectedSample, updates: Mapping[str, np.ndarray]) -> bool:
        bad = []
        for folder, array in updates.items():
            if not np.isfinite(self.numbers.decode(array)).all():
                if np.isfinite(record.updates[folder]).all():
                    self.overflown.add(folder)
                stream = self.streams[folder]
                bad.append(
                    {"block": stream.block, "t": stream.t, "conditioning": stream.conditioning}
                )
                logger.warning(
                    "image %s rejected: not finite in %s at block %s, t=%.2f, %s; prompt %r, seed "
                    "%d",
                    record.image_id,
                    self.numbers.name,
                    stream.block,
                    stream.t,
                    stream.conditioning,
                    record.prompt,
                    record.seed,
                )
        if bad:
            who = {"image_id": record.image_id, "prompt": record.prompt, "seed": record.seed}
            self.rejected.append({**who, "nonfinite": bad})
        return bool(bad)

    def group(self, index: int, names: Mapping[str, str]) -> Group:
        """The finished group, once its tars are closed; `names` are theirs below the root."""
        assert self.split is not None
        return Group(
            index=index,
            split=self.split,
            count=self.count,
            rejected=tuple(self.rejected),
            # Of this group's pictures only: a journal must not depend on earlier groups.
            image_size=self.image_size if IMAGES in self.tars else None,
            shards=tuple(
                Shard(
                    path=names[folder],
                    stream=folder,
                    split=self.split,
                    samples=self.count,
                    bytes=tar.bytes,
                    sha256=tar.sha256,
                    vectors=self.vectors.get(folder) if self.ragged else None,
                )
                for folder, tar in self.tars.items()
            ),
        )

    def refuse_all_rejected(self, index: int) -> None:
        """`UserError` if all pictures of a group of several are rejected: a setting must be
        wrong."""
        if self.count or len(self.rejected) < 2:
            return
        counts = Counter(place["block"] for image in self.rejected for place in image["nonfinite"])
        blocks = ", ".join(f"{block} ({count})" for block, count in counts.most_common())
        remedy = (
            f"their numbers are too large for activations.dtype={self.numbers.name}; set"
            " activations.dtype=bfloat16, which has the range of float32, or float32"
            if self.overflown
            else "the model itself gives them so; set model.dtype=float32, or bfloat16 with"
            " activations.dtype=bfloat16"
        )
        raise UserError(
            f"all {len(self.rejected)} pictures of group {index} (split {self.split}) are "
            f"rejected: updates that are not finite, by block: {blocks}; {remedy}. Use another "
            "name or an empty directory, since the type is part of the collection"
        )


def _columns(record: CollectedSample, stream: Stream) -> list[int] | None:
    """The tokens that a record keeps of a stream; None: all, as of every stream of updates."""
    if stream.block != ATTENTION or record.columns is None:
        return None
    columns = list(record.columns)
    if columns != sorted(set(columns)) or not set(columns) <= set(range(stream.d_in)):
        raise UserError(
            f"image {record.image_id!r} keeps the tokens {columns} of {stream.folder}; give them"
            f" ascending, from 0 to {stream.d_in - 1}"
        )
    return columns


def _json_bytes(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True).encode()
