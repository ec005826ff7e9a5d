"""Pictures in WebDataset shards: tars whose members of one key stand together, a picture and its label.

Pictures are decoded by PIL and labels read as text or JSON: no other member is looked at, and one that could run code is refused.
"""

from __future__ import annotations

import glob
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from diffusae.errors import UserError, together
from diffusae.pictures.decode import SUFFIXES, Undecodable, decoded
from diffusae.pictures.given import Listed, in_order, listing_hash

TASK = "class"
PICTURES = tuple(suffix.removeprefix(".") for suffix in SUFFIXES)
RUNS_CODE = ("pyd", "pickle", "pkl", "pth", "pt")
"""Members that WebDataset's own decoders would unpickle."""


@dataclass(frozen=True)
class _Entry:
    """Where one sample's picture lies, and its label."""

    tar: Path
    key: str
    offset: int
    size: int
    label: str | None


class WebDatasetPictures:
    """The pictures of plain (not compressed) tars; a sample's label is its class.

    Args:
        path: a tar, or a pattern such as 'pets-*.tar'.
        label: the member that holds the class: cls or txt, as text, or json.NAME, a field of the JSON member; null: pictures
            have no labels.

    Raises:
        UserError: no such tar, another kind of label.
    """

    drawn = False

    def __init__(self, path: str | None, *, label: str | None = "cls") -> None:
        if path is None:
            raise UserError(
                "collection.source.path is null; name the tar that holds the pictures, or a pattern"
            )
        self.tars = sorted(Path(found) for found in glob.glob(str(Path(path).expanduser())))
        if not self.tars:
            raise UserError(f"no file matches {path!r}; set collection.source.path to a tar, or a pattern")
        member, _, self._field = (label or "").partition(".")
        if member not in ("", "cls", "txt", "json") or (member == "json") != bool(self._field):
            raise UserError(f"collection.source.label={label} must be cls, txt, json.NAME or null")
        self._member = member

    @cached_property
    def _entries(self) -> list[_Entry]:
        entries: list[_Entry] = []
        faults: list[str] = []
        for path in self.tars:
            try:
                entries += self._read(path, faults)
            except (tarfile.TarError, EOFError, OSError) as error:
                raise UserError(
                    f"{path} is not readable as a plain tar ({error}); copy it again, or unpack a compressed one"
                ) from error
        seen: set[tuple[str, str]] = set()
        for entry in entries:
            if (entry.tar.name, entry.key) in seen:
                faults.append(
                    f"{entry.tar}: key {entry.key!r} comes twice or interleaved; write the tar anew"
                )
            seen.add((entry.tar.name, entry.key))
        together([*faults[:_TOLD], *([f"and {len(faults) - _TOLD} more"] if len(faults) > _TOLD else [])])
        if not entries:
            raise UserError(f"{', '.join(map(str, self.tars))}: no pictures ({', '.join(PICTURES)})")
        return entries

    def _read(self, path: Path, faults: list[str]) -> Iterator[_Entry]:
        """The samples of one tar; only headers and labels are read."""
        key, picture, label = None, None, None
        found: list[tuple[str, tuple[int, int] | None, str | None]] = []
        with tarfile.open(path, "r:") as tar:
            for info in tar:
                if not info.isfile():
                    continue
                folder, slash, name = info.name.rpartition("/")
                stem, _, extension = name.partition(".")
                extension = extension.lower()
                if extension.rpartition(".")[2] in RUNS_CODE:
                    faults.append(f"{path}: member {info.name!r} is refused: it could run code; leave it out")
                    continue
                if folder + slash + stem != key:
                    if key is not None:
                        found.append((key, picture, label))
                    key, picture, label = folder + slash + stem, None, None
                if extension in PICTURES:
                    if picture is not None:
                        faults.append(f"{path}: sample {key!r} holds two pictures; keep one")
                    picture = info.offset_data, info.size
                elif extension == self._member:
                    label = self._label(tar, info, path, faults)
                tar.members = []  # or every header stays in memory  # type: ignore[assignment]
            if key is not None:
                found.append((key, picture, label))
        for key, picture, label in found:
            if picture is None:
                continue  # captions without a picture are none of ours
            if label is None and self._member:
                faults.append(
                    f"{path}: sample {key!r} has no label ({self._told}); set collection.source.label, or mend the tar"
                )
            yield _Entry(path, key, *picture, label)

    def _label(
        self, tar: tarfile.TarFile, info: tarfile.TarInfo, path: Path, faults: list[str]
    ) -> str | None:
        data: Any = tar.extractfile(info)
        try:
            text = data.read().decode("utf-8")
            value = json.loads(text).get(self._field) if self._member == "json" else text.strip()
        except (ValueError, AttributeError) as error:
            faults.append(f"{path}: member {info.name!r} cannot be read ({error}); mend the tar")
            return ""
        return None if value is None or str(value) == "" else str(value)

    @property
    def _told(self) -> str:
        return f"json.{self._field}" if self._field else self._member

    def listed(self) -> list[Listed]:
        """Every picture as `<tar>/<key>`, in the order of the tars."""
        return [
            (f"{entry.tar.name}/{entry.key}", None, {TASK: entry.label} if entry.label is not None else {})
            for entry in self._entries
        ]

    def tasks(self) -> dict[str, list[str]]:
        """The classes in alphabetical order, or that of numbers."""
        classes = in_order(entry.label for entry in self._entries if entry.label is not None)
        return {TASK: classes} if classes else {}

    def picture(self, place: int) -> UInt8[np.ndarray, "height width 3"]:
        """The pixels of a listed picture; `Undecodable` where that fails."""
        entry = self._entries[place]
        try:
            with open(entry.tar, "rb") as file:
                file.seek(entry.offset)
                return decoded(file.read(entry.size))
        except OSError as error:
            raise Undecodable(str(error)) from error

    def fingerprint(self) -> str:
        """A hash of all keys, sizes and labels; pictures are not read."""
        return listing_hash(
            f"{entry.tar.name} {entry.key} {entry.size} {entry.label}" for entry in self._entries
        )


_TOLD = 20
"""Faults that one error names."""
