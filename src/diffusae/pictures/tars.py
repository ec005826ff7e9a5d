"""Pictures in WebDataset shards: tars in which a picture and its label share a key and are
adjacent.

PIL decodes pictures, and labels are text or JSON. Other members are not read, and members that
could run code are refused.
"""

from __future__ import annotations

import glob
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from diffusae.contents import HEAD_BYTES, compression_of, foreign, json_of
from diffusae.errors import UserError, together
from diffusae.pictures.decode import MOST_BYTES, SUFFIXES, Undecodable, decoded
from diffusae.pictures.given import Listed, in_order, listing_hash
from diffusae.tar_samples import Sample, TarFault, TarSamples

log = logging.getLogger(__name__)

TASK = "class"
PICTURES = tuple(suffix.removeprefix(".") for suffix in SUFFIXES)
RUNS_CODE = ("pyd", "pickle", "pkl", "pth", "pt")
"""Members that WebDataset's own decoders would unpickle."""
MOST_FAULTS = 20
"""Faults that one error lists."""


@dataclass(frozen=True)
class _Entry:
    """The place of one sample's picture, and its label."""

    tar: Path
    key: str
    offset: int
    size: int
    label: str | None


class WebDatasetPictures:
    """The pictures of plain (not compressed) tars. A sample's label is its class.

    Args:
        path: a tar, or a pattern such as 'pets-*.tar'.
        label: the member with the class: cls or txt (text), or json.NAME (a field of the JSON
            member). null: pictures have no labels.

    Raises:
        UserError: the tar does not exist, or `label` is invalid.
    """

    drawn = False

    def __init__(self, path: str | None, *, label: str | None = "cls") -> None:
        if path is None:
            raise UserError(
                "collection.source.path is null; name the tar with the pictures, or a pattern"
            )
        if not isinstance(path, str | Path):
            raise UserError(
                f"collection.source.path={path} must be one text: a tar, or a pattern such as "
                "'pets-*.tar'"
            )
        self.tars = sorted(map(Path, glob.glob(str(Path(path).expanduser()), recursive=True)))
        if not self.tars:
            what = f"no file matches {path!r}"
            raise UserError(f"{what}; set collection.source.path to a tar, or a pattern")
        together(
            f"{tar} is no file; set collection.source.path to tars"
            for tar in self.tars
            if not tar.is_file()
        )
        names = Counter(tar.name for tar in self.tars)
        together(
            f"{count} tars are called {name!r}, but pictures are named by their tar; rename them"
            for name, count in names.items()
            if count > 1
        )
        valid = label is None or isinstance(label, str)
        self._member, _, self._field = (label if valid and label else "").partition(".")
        known = self._member in ("", "cls", "txt", "json")
        if not valid or not known or (self._member == "json") != bool(self._field):
            raise UserError(f"collection.source.label={label} must be cls, txt, json.NAME or null")

    @cached_property
    def _entries(self) -> list[_Entry]:
        entries: list[_Entry] = []
        faults: list[str] = []
        for path in self.tars:
            try:
                entries += self._read(path, faults)
            except OSError as error:
                what = f"{path} cannot be read ({error.strerror or error})"
                raise UserError(f"{what}; let this user read it") from error
            except TarFault as fault:
                raise UserError(f"{path} is not readable as a plain tar: {fault}") from fault
        together(faults, most=MOST_FAULTS)
        if not entries:
            raise UserError(
                f"{', '.join(map(str, self.tars[:5]))}: no pictures ({', '.join(PICTURES)}); set "
                "collection.source.path to tars with pictures"
            )
        return entries

    def _read(self, path: Path, faults: list[str]) -> Iterator[_Entry]:
        """The samples of one tar. Only headers and labels are read."""
        without = 0
        with open(path, "rb") as file:
            head = file.read(HEAD_BYTES)
            file.seek(0)
            if what := foreign(head):
                raise TarFault(f"it is {what}")
            if name := compression_of(head):
                raise TarFault(f"it is compressed by {name}, but must be plain; unpack it")
            samples = TarSamples(file, {self._member} - {""})
            for sample in samples:
                entry = self._entry(path, sample, faults)
                without += entry is None
                if entry is not None:
                    yield entry
        if without:
            log.warning("samples of %s without a picture, left out: %d", path, without)
        if samples.passed_over_count:
            log.info(
                "members of %s that belong to no sample: %d, such as %s; they are skipped",
                path, samples.passed_over_count, ", ".join(map(repr, samples.passed_over)),
            )  # fmt: skip

    def _entry(self, path: Path, sample: Sample, faults: list[str]) -> _Entry | None:
        """A sample's picture and label; None if it has no picture."""
        key = sample.key
        for extension, member in sample.members.items():
            if extension.rpartition(".")[2] in RUNS_CODE:
                refused = f"{path}: member {member.name!r} is refused"
                faults.append(f"{refused}: it could run code; leave it out")
        pictures = [member for extension, member in sample.members.items() if extension in PICTURES]
        if len(pictures) > 1:
            faults.append(f"{path}: sample {key!r} holds two pictures; keep one")
        if not pictures:
            if any(extension.rpartition(".")[2] in PICTURES for extension in sample.members):
                faults.append(f"{path}: sample {key!r} has no picture, {sample.described}")
            return None
        label = self._label(path, sample, faults)
        if label is None and self._member:
            what = f"{path}: sample {key!r} has no label ({self._label_name})"
            faults.append(f"{what}; set collection.source.label, or mend the tar")
        return _Entry(path, key, pictures[-1].offset, pictures[-1].size, label)

    def _label(self, path: Path, sample: Sample, faults: list[str]) -> str | None:
        if self._member not in sample.data:
            return None
        try:
            text = sample.data[self._member].decode("utf-8-sig")
            value = text.strip() if self._member != "json" else json_of(text).get(self._field)
            if isinstance(value, float | list | dict):
                kind = type(value).__name__
                raise ValueError(f"{self._label_name} is {kind}, not text or a whole number")
            label = "" if value is None else str(value)
            label.encode("utf-8")
        except (ValueError, AttributeError) as error:
            name = sample.members[self._member].name
            reason = str(error)[:200]
            faults.append(f"{path}: member {name!r} cannot be read ({reason}); mend the tar")
            return ""
        return label or None

    @property
    def _label_name(self) -> str:
        return f"json.{self._field}" if self._field else self._member

    def listed(self) -> list[Listed]:
        """All pictures as `<tar>/<key>`, in the order of the tars."""
        return [
            (f"{entry.tar.name}/{entry.key}", None, {TASK: entry.label} if entry.label else {})
            for entry in self._entries
        ]

    def tasks(self) -> dict[str, list[str]]:
        """The classes, sorted (as numbers if all are numbers)."""
        classes = in_order(entry.label for entry in self._entries if entry.label is not None)
        return {TASK: classes} if classes else {}

    def picture(self, place: int) -> UInt8[np.ndarray, "height width 3"]:
        """The pixels of a listed picture; `Undecodable` if that fails."""
        entry = self._entries[place]
        if entry.size > MOST_BYTES:
            raise Undecodable(f"it has {entry.size} bytes, more than {MOST_BYTES}; make it smaller")
        try:
            with open(entry.tar, "rb") as file:
                file.seek(entry.offset)
                return decoded(file.read(entry.size))
        except OSError as error:
            raise Undecodable(f"it cannot be read ({error.strerror or error})") from error

    def fingerprint(self) -> str:
        """A hash of all keys, sizes and labels. Pictures are not read."""
        return listing_hash(
            f"{entry.tar.name} {entry.key} {entry.size} {entry.label}" for entry in self._entries
        )
