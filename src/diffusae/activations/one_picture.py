"""What a collection stores of one picture, without reading the other shards.

A picture's samples lie in the shards of one group. They have the same file name in every stream, so
that a picture that was once sought is found at once elsewhere.
"""

from __future__ import annotations

import mmap
import tarfile
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from jaxtyping import Float

from diffusae.activations.codes import PictureCodes, codes_in
from diffusae.activations.local_copy import open_shard
from diffusae.activations.manifest import Manifest
from diffusae.activations.npy import npy_array
from diffusae.activations.reader import REMEDY, meta_of, read_updates
from diffusae.activations.schema import IMAGES, CodeStream, Shard, Stream
from diffusae.activations.tar_index import Member, members_of
from diffusae.errors import UserError
from diffusae.files import sha256_of
from diffusae.tensor_files import tensors_of


class OnePicture:
    """Finds pictures in a collection. A shard is compared with the manifest before it is first
    read.

    Args:
        root, manifest: the collection.
        splits: where pictures are sought; whole grids are stored of dictionary, tune and test.
    """

    def __init__(
        self,
        root: Path,
        manifest: Manifest,
        splits: tuple[str, ...] = ("dictionary", "tune", "test"),
    ) -> None:
        self.root, self.manifest = root, manifest
        self.splits = tuple(split for split in splits if split in manifest.splits)
        self._file_of: dict[str, str] = {}
        """image id -> the file name of its shards."""
        self._sought: set[str] = set()
        """File names of shards whose pictures are all in `_file_of`."""
        self._sound: set[str] = set()
        self._lock = Lock()

    def updates(self, stream: Stream, image_id: str) -> Float[np.ndarray, "positions d_in"] | None:
        """The updates of a picture; None: the collection does not have it.

        Raises:
            UserError: its shard is missing, damaged or not what the manifest says.
        """
        if (found := self._member(stream.folder, image_id, "npy")) is None:
            return None
        shard, data = found
        try:
            stored = npy_array(data)
        except ValueError as error:
            raise UserError(f"{shard.path}: {image_id}: {error}; {REMEDY}") from error
        shape = (stream.positions, stream.d_in)
        if stored.shape != shape or stored.dtype != self.manifest.numbers.stored:
            raise UserError(
                f"{shard.path}: sample {image_id!r} is {stored.dtype} {stored.shape}, expected"
                f" {self.manifest.numbers.stored} {shape}; {REMEDY}"
            )
        return self.manifest.numbers.decode(stored)

    def codes(self, codes: CodeStream, image_id: str) -> PictureCodes | None:
        """The stored codes of a picture; None: the collection does not have it.

        Raises:
            UserError: as `updates`.
        """
        if (found := self._member(codes.folder, image_id, "safetensors")) is None:
            return None
        shard, data = found
        where = f"{shard.path}: {image_id}"
        try:
            tensors = tensors_of(data)
        except ValueError as error:
            raise UserError(f"{where}: {error}; {REMEDY}") from error
        return codes_in(tensors, self.manifest, codes, where)

    def image(self, image_id: str) -> bytes | None:
        """The PNG of a picture as it is stored; None: the collection does not have it."""
        found = self._member(IMAGES, image_id, "png")
        return None if found is None else found[1]

    def meta(self, folder: str, image_id: str) -> dict[str, Any] | None:
        """What is stored beside a picture, such as its prompt and seed; None: it is not there.

        Args:
            folder: of a stream of updates, or `images`.
        """
        found = self._member(folder, image_id, "json")
        return None if found is None else meta_of(found[1])

    def first(
        self, stream: Stream, split: str, count: int
    ) -> Iterator[Float[np.ndarray, "positions d_in"]]:
        """The updates of the first pictures of a split, at most `count`."""
        for shard in self.manifest.shards(stream.folder, split):
            self._require_sound(shard)
            for sample in read_updates(self.root, self.manifest, stream, split, shards=[shard]):
                if count == 0:
                    return
                count -= 1
                yield sample.updates

    def _member(self, folder: str, image_id: str, kind: str) -> tuple[Shard, bytes] | None:
        with self._lock:
            for shard in self._candidates(folder, image_id):
                with self._tar(shard) as tar:
                    members = {one.name: one for one in _members(tar, shard)}
                    self._note(shard, members)
                    if (member := members.get(f"{image_id}.{kind}")) is not None:
                        self._require_sound(shard)
                        return shard, tar[member.offset : member.offset + member.size]
        return None

    @contextmanager
    def _tar(self, shard: Shard) -> Iterator[mmap.mmap]:
        try:
            with (
                open_shard(self.root, shard) as file,
                mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as tar,
            ):
                yield tar
        except FileNotFoundError:
            raise UserError(f"{shard.path} is missing below {self.root}; {REMEDY}") from None
        except ValueError as error:  # an empty file cannot be mapped
            raise UserError(f"{shard.path} is cut or damaged ({error}); {REMEDY}") from error

    def _candidates(self, folder: str, image_id: str) -> Iterator[Shard]:
        """The shards that may have the picture, the likeliest first."""
        shards = [s for split in self.splits for s in self.manifest.shards(folder, split)]
        if (known := self._file_of.get(image_id)) is not None:
            yield from sorted(shards, key=lambda shard: Path(shard.path).name != known)
            return
        left = [shard for shard in shards if Path(shard.path).name not in self._sought]
        # Pictures are numbered as they are collected, so that the ids ascend from shard to shard.
        # Where they do not, the guess is wrong, and all shards are looked through.
        place = bisect_right(left, image_id, key=self._first_id) - 1
        yield from left[max(0, place) : place + 1]
        yield from (shard for n, shard in enumerate(left) if n != place)

    def _first_id(self, shard: Shard) -> str:
        with self._tar(shard) as tar:
            return next((one.name.partition(".")[0] for one in _members(tar, shard)), "")

    def _note(self, shard: Shard, members: dict[str, Member]) -> None:
        name = Path(shard.path).name
        self._file_of.update((member.partition(".")[0], name) for member in members)
        self._sought.add(name)

    def _require_sound(self, shard: Shard) -> None:
        if shard.path in self._sound:
            return
        with self._tar(shard):  # which fetches it where it is of a remote collection
            digest = sha256_of(self.root / shard.path)
        if digest != shard.sha256:
            raise UserError(f"{shard.path} has another SHA-256 than its manifest says; {REMEDY}")
        self._sound.add(shard.path)


def _members(tar: mmap.mmap, shard: Shard) -> list[Member]:
    try:
        return members_of(tar)
    except tarfile.TarError as error:
        raise UserError(f"{shard.path} is cut or damaged ({error}); {REMEDY}") from error
