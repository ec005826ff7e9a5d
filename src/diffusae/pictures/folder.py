"""Pictures in folders. The first folder below the root is a picture's class."""

from __future__ import annotations

import logging
import os
import stat
from collections import Counter
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from diffusae.errors import UserError, together
from diffusae.pictures.decode import OTHER_SUFFIXES, SUFFIXES, Undecodable, decoded
from diffusae.pictures.given import Listed, in_order, listing_hash
from diffusae.tar_samples import is_hidden

log = logging.getLogger(__name__)

TASK = "class"


class PictureFolder:
    """All pictures below a folder; `<path>/<class>/.../<name>.jpg` is labelled {"class":
    "<class>"}.

    Pictures in the root itself have no label. Files with other suffixes, hidden files and folders,
    and `__MACOSX` are skipped. Links to files are followed, links to folders are not (with a
    warning).

    Args:
        path: the root.

    Raises:
        UserError: the folder does not exist, or is not given.
    """

    drawn = False

    def __init__(self, path: str | None) -> None:
        if path is None:
            raise UserError("collection.source.path is null; name the folder with the pictures")
        if not isinstance(path, str | Path):
            raise UserError(
                f"collection.source.path={path} must be one text: the folder with the pictures"
            )
        self.root = Path(path).expanduser()
        if not os.path.isdir(self.root):
            raise UserError(
                f"there is no folder {self.root.absolute()}; set collection.source.path to one"
            )

    @cached_property
    def _files(self) -> list[Path]:
        files = sorted(self._visible(), key=lambda path: path.as_posix())
        names = [path for path in files if not _is_utf8(path.as_posix())]
        fault = "the name {!a} below {} is not UTF-8; rename it"
        together((fault.format(path.as_posix(), self.root) for path in names), most=20)
        pictures = [path for path in files if path.suffix.lower() in SUFFIXES]
        suffixes = (path.suffix.lower() for path in files)
        unread = Counter(suffix for suffix in suffixes if suffix in OTHER_SUFFIXES)
        if not pictures:
            convert = f", or convert those that are not read ({', '.join(sorted(unread))})"
            raise UserError(
                f"{self.root} holds no pictures ({', '.join(SUFFIXES)}); set "
                f"collection.source.path to a folder with pictures{convert if unread else ''}"
            )
        if unread:
            counts = ", ".join(f"{suffix}: {count}" for suffix, count in sorted(unread.items()))
            log.warning("pictures of %s of unread formats, left out: %s", self.root, counts)
        if others := len(files) - len(pictures) - unread.total():
            log.info("files of %s that are no pictures: %d", self.root, others)
        return pictures

    def _visible(self) -> list[Path]:
        """All files below the root that are not hidden, relative to it."""
        files: list[Path] = []
        links: list[str] = []
        hidden = 0
        for folder, inner, names in os.walk(self.root, onerror=_refuse):
            place = Path(folder).relative_to(self.root)
            shown = [name for name in names if not is_hidden(name)]
            hidden += len(names) - len(shown)
            files += [place / name for name in shown]
            inner[:] = [name for name in inner if not is_hidden(name)]
            links += [str(place / name) for name in inner if Path(folder, name).is_symlink()]
        if links:
            what = f"links to folders in {self.root} that are not followed: {len(links)}"
            log.warning("%s, such as %s; put the folders there (cp -rL)", what, links[0])
        if hidden:
            log.info("hidden files of %s, skipped: %d", self.root, hidden)
        return files

    def listed(self) -> list[Listed]:
        """All pictures by their paths below the root, sorted."""
        return [
            (path.as_posix(), None, {TASK: path.parts[0]} if len(path.parts) > 1 else {})
            for path in self._files
        ]

    def tasks(self) -> dict[str, list[str]]:
        """The folders' names, sorted (as numbers if all are numbers)."""
        classes = in_order(path.parts[0] for path in self._files if len(path.parts) > 1)
        return {TASK: classes} if classes else {}

    def picture(self, place: int) -> UInt8[np.ndarray, "height width 3"]:
        """The pixels of a listed picture; `Undecodable` if that fails."""
        path = self.root / self._files[place]
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                raise Undecodable("it is a pipe or a device, not a file")
            with open(path, "rb") as file:
                return decoded(file)
        except FileNotFoundError as error:
            raise Undecodable("it is a link to a missing file") from error
        except OSError as error:
            raise Undecodable(f"it cannot be read ({error.strerror or error})") from error

    def fingerprint(self) -> str:
        """A hash of all names and sizes. Contents are not read."""
        return listing_hash(f"{path.as_posix()} {_size(self.root / path)}" for path in self._files)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # reading it will report the fault
        return -1


def _refuse(error: OSError) -> None:
    raise UserError(
        f"{error.filename} cannot be read ({error.strerror}); let this user read it, or move it "
        "away"
    ) from error


def _is_utf8(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
