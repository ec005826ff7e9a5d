"""The list of the pictures that a study's collection keeps with their whole grids."""

from __future__ import annotations

import mmap
import tarfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any

from diffusae.activations.local_copy import open_shard
from diffusae.activations.manifest import Manifest
from diffusae.activations.reader import REMEDY
from diffusae.activations.schema import IMAGES, Shard
from diffusae.activations.tar_index import members_of
from diffusae.errors import UserError
from diffusae.parsing import json_value, of_type

SPLITS = ("test", "tune", "dictionary")
"""Pictures of other splits may keep only some of their positions."""


@dataclass(frozen=True)
class CollectedPicture:
    """A collected picture, and what it was made from."""

    image_id: str
    prompt: str
    seed: int | None


class CollectedPictures:
    """The list, read from the shards as far as it is asked for, and kept: some 200 bytes a picture.

    Args:
        root: the collection's directory.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._listed: list[CollectedPicture] = []
        self._rest: Iterator[CollectedPicture] | None = None
        self._lock = Lock()

    def page(self, query: str, start: int, count: int) -> tuple[list[CollectedPicture], int | None]:
        """`count` pictures whose prompt holds the query, from the number `start` on, and the number
        at which the next page begins; None: there are no more.

        Raises:
            UserError: the collection is not there or not finished, or a shard is damaged.
        """
        wanted = query.strip().lower()
        matching = (one for one in self._all() if wanted in one.prompt.lower())
        found = list(islice(matching, start, start + count + 1))
        return found[:count], start + count if len(found) > count else None

    def find(self, image_id: str) -> CollectedPicture | None:
        """The picture of an id; None: there is none. Raises as `page`."""
        return next((one for one in self._all() if one.image_id == image_id), None)

    def _all(self) -> Iterator[CollectedPicture]:
        place = 0
        while True:
            with self._lock:
                if place == len(self._listed) and not self._read_on():
                    return
                picture = self._listed[place]
            yield picture
            place += 1

    def _read_on(self) -> bool:
        """List one more picture; False: all are listed."""
        if self._rest is None:
            self._rest = self._stored(Manifest.load(self._root))
        try:
            self._listed.append(next(self._rest))
        except StopIteration:
            return False
        except UserError:
            self._listed, self._rest = [], None  # the next question begins anew
            raise
        return True

    def _stored(self, manifest: Manifest) -> Iterator[CollectedPicture]:
        if manifest.image_size is None:
            return
        for split in SPLITS:
            if split not in manifest.splits:
                continue
            for shard in manifest.shards(IMAGES, split):
                yield from self._of_shard(shard)

    def _of_shard(self, shard: Shard) -> Iterator[CollectedPicture]:
        try:
            with (
                open_shard(self._root, shard) as file,
                mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as tar,
            ):
                for member in members_of(tar):
                    name, _, kind = member.name.rpartition(".")
                    if kind == "json":
                        yield _listed(name, tar[member.offset : member.offset + member.size])
        except FileNotFoundError:
            raise UserError(f"{shard.path} is missing below {self._root}; {REMEDY}") from None
        except (tarfile.TarError, ValueError) as error:
            raise UserError(f"{shard.path} is damaged ({error}); {REMEDY}") from error


def _listed(image_id: str, meta: bytes) -> CollectedPicture:
    value = of_type(json_value(meta), dict[str, Any], "what is stored beside a picture")
    prompt = of_type(value.get("prompt", ""), str, "prompt")
    return CollectedPicture(image_id, prompt, of_type(value.get("seed"), int | None, "seed"))


def as_json(pictures: list[CollectedPicture], following: int | None) -> dict[str, Any]:
    """A page of the list, as the page's script takes it."""
    return {"pictures": [asdict(picture) for picture in pictures], "next": following}
