"""What a shared autoencoder consists of, and finding it among a repository's files."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from diffusae.errors import UserError, together, unknown

WEIGHTS, CONFIG, CARD = "sae.safetensors", "cfg.json", "README.md"
NEEDED = (WEIGHTS, CONFIG)
ALLOWED = (WEIGHTS, CONFIG, CARD)
"""The files of one autoencoder; no other is ever fetched."""

MOST_BYTES = {CONFIG: 16 << 20, CARD: 16 << 20}
"""Of the files that are read whole. Weights are as large as they are; the disk must hold them."""

_PART = re.compile(r"[^\\/:\x00-\x1f]+")
_OF_GIT = (".gitattributes", ".gitignore")


@dataclass(frozen=True)
class RemoteFile:
    """One file of a repository: its path there, bytes, and a hash: SHA-256, or git's own of a blob
    (SHA-1), or none."""

    path: str
    size: int
    sha256: str | None = None
    git_oid: str | None = None

    def fault(self, local: Path) -> str | None:
        """How a local file differs from this one; None: in nothing that is known."""
        if (size := local.stat().st_size) != self.size:
            return f"{self.path}: expected {self.size} bytes, found {size}"
        for kind, expected, found in (
            ("SHA-256", self.sha256, _sha256),
            ("git's hash", self.git_oid, git_oid),
        ):
            if expected is not None and (digest := found(local)) != expected:
                return f"{self.path}: {kind} expected {expected}, found {digest}"
        return None


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def git_oid(path: Path) -> str:
    """The name that git gives a file's contents: the SHA-1 of "blob <size>", a zero byte, and the
    contents."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def folder_of(files: Iterable[RemoteFile], *, folder: str | None, prefix: str, where: str) -> str:
    """The folder ("" for the top) that holds the autoencoder.

    Args:
        folder: the one that is asked for; None: the only one there is, or the only one whose name
            begins with `prefix` (a cell's).
        where: the repository, for messages.

    Raises:
        UserError: there is none, or more than one; those there are are listed.
    """
    folders = {_parent(file.path) for file in files if _name(file.path) == CONFIG}
    holding = sorted(each for each in folders if _stays_below(each))
    if folder is not None:
        wanted = folder.strip("/.")
        if wanted not in holding:
            raise unknown(f"folder of {where}:", folder, [each or "." for each in holding])
        return wanted
    ours = [each for each in holding if _name(each).startswith(prefix)]
    found = ours or holding
    if len(found) != 1:
        shown = ", ".join(each or "." for each in found) or "none"
        raise UserError(
            f"{where} must hold one autoencoder of {prefix}, or one at all; folders with a"
            f" {CONFIG}: {shown}; name one: folder=NAME"
        )
    return found[0]


def autoencoder_files(files: Iterable[RemoteFile], folder: str, *, where: str) -> list[RemoteFile]:
    """The files of the autoencoder in `folder`, weights first.

    Raises:
        UserError: one is missing or larger than such a file can be, or others lie beside them,
            pickles above all: a folder that holds an autoencoder holds nothing else.
    """
    inside = {_name(file.path): file for file in files if _parent(file.path) == folder}
    place = f"{where}, folder {folder or '.'}"
    missing = [name for name in NEEDED if name not in inside]
    if missing:
        raise UserError(
            f"{place} lacks {', '.join(missing)}; it is no SAE in diffusae's own format (one in"
            " another library's is downloaded and then taken by `diffusae import source=DIR`)"
        )
    foreign = sorted(inside.keys() - set(ALLOWED) - set(_OF_GIT))
    if foreign:
        raise UserError(
            f"{place} holds {', '.join(foreign)} beside an SAE; only {', '.join(ALLOWED)} are"
            " taken, never pickles or code; ask its owner for a clean folder, or name another:"
            " folder=NAME"
        )
    together(
        f"{place}: {name} has {inside[name].size} bytes, more than the {most} that such a file may"
        " have; do not use it"
        for name, most in MOST_BYTES.items()
        if name in inside and inside[name].size > most
    )
    return [inside[name] for name in ALLOWED if name in inside]


def _stays_below(folder: str) -> bool:
    """Whether a folder of a listing is one below any directory that it is fetched into."""
    return not folder or all(
        part not in (".", "..") and _PART.fullmatch(part) for part in folder.split("/")
    )


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def listing_lines(files: Sequence[RemoteFile]) -> list[str]:
    """One line a file: path, size, SHA-256; and the sum."""
    width = max((len(file.path) for file in files), default=0)
    lines = [
        f"{file.path:<{width}}  {_size(file.size):>10}  sha256 {file.sha256}" for file in files
    ]
    return [*lines, f"{'together':<{width}}  {_size(sum(file.size for file in files)):>10}"]


def _size(count: int) -> str:
    for unit, bytes_of in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= bytes_of:
            return f"{count / bytes_of:.1f} {unit}"
    return f"{count} B"
