"""Pictures in folders: the first folder below the root is a picture's class."""

from __future__ import annotations

import logging
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from diffusae.errors import UserError
from diffusae.pictures.decode import SUFFIXES, Undecodable, decoded
from diffusae.pictures.given import Listed, in_order, listing_hash

log = logging.getLogger(__name__)

TASK = "class"


class PictureFolder:
    """Every picture below a folder; `<path>/<class>/.../<name>.jpg` is labelled {"class": "<class>"}.

    A picture that lies in the root itself has no label. Files that are no pictures by their suffix are passed over.

    Args:
        path: the root.

    Raises:
        UserError: no such folder, or none is named.
    """

    drawn = False

    def __init__(self, path: str | None) -> None:
        if path is None:
            raise UserError("collection.source.path is null; name the folder that holds the pictures")
        self.root = Path(path).expanduser()
        if not self.root.is_dir():
            raise UserError(f"there is no folder {self.root.absolute()}; set collection.source.path to one")

    @cached_property
    def _files(self) -> list[Path]:
        files = sorted(
            (
                path.relative_to(self.root)
                for path in self.root.rglob("*")
                if path.is_file() and not any(p.startswith(".") for p in path.relative_to(self.root).parts)
            ),
            key=lambda path: path.as_posix(),
        )
        pictures = [path for path in files if path.suffix.lower() in SUFFIXES]
        if not pictures:
            raise UserError(
                f"{self.root} holds no pictures ({', '.join(SUFFIXES)}); set collection.source.path to a folder that does"
            )
        if len(pictures) < len(files):
            log.info("%d files of %s are no pictures", len(files) - len(pictures), self.root)
        return pictures

    def listed(self) -> list[Listed]:
        """Every picture by its path below the root, in the order of these paths."""
        return [
            (path.as_posix(), None, {TASK: path.parts[0]} if len(path.parts) > 1 else {})
            for path in self._files
        ]

    def tasks(self) -> dict[str, list[str]]:
        """The folders' names in alphabetical order, or that of numbers."""
        classes = in_order(path.parts[0] for path in self._files if len(path.parts) > 1)
        return {TASK: classes} if classes else {}

    def picture(self, place: int) -> UInt8[np.ndarray, "height width 3"]:
        """The pixels of a listed picture; `Undecodable` where that fails."""
        path = self.root / self._files[place]
        try:
            with open(path, "rb") as file:
                return decoded(file)
        except OSError as error:
            raise Undecodable(str(error)) from error

    def fingerprint(self) -> str:
        """A hash of all names and sizes; contents are not read."""
        return listing_hash(f"{path.as_posix()} {(self.root / path).stat().st_size}" for path in self._files)
