"""Bookmarks, names and notes of latents: one JSON file, which several explorers and an editor may
change at the same time.

    {"latents": {"down-t1.00-cond-k10": {"373": {"bookmarked": true, "name": "red fish"}}}}

A change reads the file again and sets one field of one latent. It says which value it was made
from, so nobody's words are replaced unseen. Whatever else stands in the file stays as it is. The
file is replaced as a whole, so a kill leaves the old one or the new one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import RLock
from typing import Any

from filelock import FileLock, Timeout

from diffusae.errors import UserError, unknown
from diffusae.files import TEMPORARY_SUFFIX, atomic_path, digest_of
from diffusae.parsing import MOST_BYTES, json_value, reading
from diffusae.runs.disk import is_writable

FILE = "explorer-notes.json"
LOCK = ".explorer-notes.lock"
LONGEST = {"name": 120, "note": 4000}
"""Characters of a text."""
MOST = MOST_BYTES >> 4
"""Bytes of the file, 16 MiB."""

Stamp = tuple[int, int, int] | None
"""What changes with a file's content: inode, size and time; None: there is no file."""


class Changed(UserError):
    """A field has another value than the one that a change was made from.

    Attributes:
        now: the note as it is.
    """

    def __init__(self, now: Note) -> None:
        super().__init__(
            "this note was changed elsewhere meanwhile; look at it again before you change it"
        )
        self.now = now


class _Edited(Exception):
    """The file was changed between its reading and its writing."""


@dataclass(frozen=True)
class Note:
    """What a user says of one latent.

    Attributes:
        bookmarked: whether it stands on the start page.
        name: the user's own name for it, at most 120 characters; "": none.
        note: text, at most 4000 characters.
    """

    bookmarked: bool = False
    name: str = ""
    note: str = ""

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Note:
        """A note from an entry of the file; what has another type is left out."""
        fields = asdict(cls())
        return cls(**{
            field: entry[field]
            for field, first in fields.items()
            if isinstance(entry.get(field), type(first))
        })  # fmt: skip

    def __bool__(self) -> bool:
        return self != Note()


class Notes:
    """The notes of a study.

    Args:
        path: the file. It need not exist.
        beneath: a file that is only read: where `path` says nothing of a field, it counts.
    """

    def __init__(self, path: Path, *, beneath: Path | None = None) -> None:
        self.path, self._beneath = path, beneath
        self._lock = RLock()
        self._read: dict[Path, tuple[Stamp, dict[str, Any]]] = {}

    @classmethod
    def of_study(cls, directory: Path) -> Notes:
        """The notes beside a study. Where its disk takes none, they are kept in the user's own
        directory, and those beside the study are shown beneath.
        """
        beside = directory / FILE
        if is_writable(directory):
            return cls(beside)
        home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share"
        key = digest_of(str(directory.resolve()).encode())[:16]
        return cls(Path(home) / "diffusae" / f"{directory.name}-{key}" / FILE, beneath=beside)

    @property
    def is_beside(self) -> bool:
        """Whether the file lies in the study's own directory."""
        return self._beneath is None

    def all(self) -> dict[str, dict[int, Note]]:
        """Every note: cell -> latent -> note.

        Raises:
            UserError: a file is damaged.
        """
        latents = [_latents_of(self._load(path)) for path in self._files]
        keys = {(cell, latent) for cells in latents for cell in cells for latent in cells[cell]}
        notes: dict[str, dict[int, Note]] = {}
        for cell, latent in sorted(keys):
            if note := self.of(cell, latent):
                notes.setdefault(cell, {})[latent] = note
        return notes

    def of(self, cell: str, latent: int) -> Note:
        """The note of a latent, an empty one where there is none; see `all`."""
        entry: dict[str, Any] = {}
        for path in self._files:
            entry |= _latents_of(self._load(path)).get(cell, {}).get(latent, {})
        return Note.of(entry)

    def shown(self, cell: str, latent: int) -> tuple[Note, str]:
        """The note of a latent for its page; an empty one and why, where a file is damaged."""
        try:
            return self.of(cell, latent), ""
        except UserError as error:
            return Note(), str(error)

    def change(self, cell: str, latent: int, field: str, value: object, *, was: object) -> Note:
        """Set one field of a latent's note; the note as it is then.

        Args:
            field: "bookmarked", "name" or "note".
            was: the value that the change was made from.

        Raises:
            Changed: the field has another value than `was` by now, and it is not `value`.
            UserError: an unknown field, a value that cannot be, or a damaged file, which stays as
                it is.
        """
        value = _checked(field, value)
        with self._lock, self._held():
            while True:
                now = self.of(cell, latent)
                if getattr(now, field) not in (was, value):
                    raise Changed(now)
                with suppress(_Edited):
                    self._write(cell, latent, field, value)
                    return replace(now, **{field: value})

    def _write(self, cell: str, latent: int, field: str, value: object) -> None:
        stamp = _stamp(self.path)
        content = json.loads(json.dumps(self._load(self.path)))  # its own copy
        cells = content.setdefault("latents", {})
        cells.setdefault(cell, {}).setdefault(str(latent), {})[field] = value
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        if len(text.encode()) > MOST:
            raise UserError(f"{self.path} would have more than {MOST >> 20} MiB; shorten it")
        with atomic_path(self.path) as temporary:
            temporary.write_text(text, encoding="utf-8")
            if _stamp(self.path) != stamp:
                raise _Edited

    @property
    def _files(self) -> list[Path]:
        return [self.path] if self._beneath is None else [self._beneath, self.path]

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Hold the lock that explorers of the same study wait for. It ends with its process."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path.with_name(LOCK), timeout=10)
        try:
            lock.acquire()
        except (Timeout, NotImplementedError, OSError) as error:
            raise UserError(f"{self.path} cannot be changed now ({error}); try again") from None
        try:
            for left in self.path.parent.glob(f"{FILE}.*{TEMPORARY_SUFFIX}"):  # of a killed one
                left.unlink(missing_ok=True)
            yield
        finally:
            lock.release()

    def _load(self, path: Path) -> dict[str, Any]:
        """The content of a file, read again when it has changed."""
        stamp = _stamp(path)
        with self._lock:
            if path not in self._read or self._read[path][0] != stamp:
                self._read[path] = stamp, _read(path)
            return self._read[path][1]


def _read(path: Path) -> dict[str, Any]:
    try:
        with reading(path, remedy="correct it by hand, or move it away; it was not changed"):
            if path.stat().st_size > MOST:
                raise UserError(f"it has more than {MOST >> 20} MiB")
            content = json_value(path.read_bytes())
            latents = content.get("latents", {}) if isinstance(content, dict) else None
            if not isinstance(latents, dict) or not all(
                isinstance(entry, dict) and all(isinstance(note, dict) for note in entry.values())
                for entry in latents.values()
            ):
                raise UserError('it must be {"latents": {CELL: {LATENT: {...}}}}')
            return content
    except FileNotFoundError:
        return {}


def _latents_of(content: Mapping[str, Any]) -> dict[str, dict[int, dict[str, Any]]]:
    return {
        cell: {int(latent): note for latent, note in notes.items() if latent.isdecimal()}
        for cell, notes in content.get("latents", {}).items()
    }


def _stamp(path: Path) -> Stamp:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _checked(field: str, value: object) -> bool | str:
    kinds = {name: type(first) for name, first in asdict(Note()).items()}
    if field not in kinds:
        raise unknown("field of a note:", field, kinds)
    if not isinstance(value, kinds[field]):
        must = "true or false" if kinds[field] is bool else "a text"
        raise UserError(f"{field} must be {must}")
    if isinstance(value, str):
        value = value.strip() if field == "note" else " ".join(value.split())
        if len(value) > LONGEST[field]:
            raise UserError(f"{field} has {len(value)} characters; at most {LONGEST[field]} fit")
    assert isinstance(value, bool | str)
    return value
