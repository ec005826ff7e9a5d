"""The files of a shared autoencoder, and finding them in a repository."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from diffusae.errors import UserError, together, unknown
from diffusae.files import sha256_of

WEIGHTS, CONFIG, CARD = "sae.safetensors", "cfg.json", "README.md"
INDEX = "sae.safetensors.index.json"
"""In the place of `WEIGHTS` where these are in several files."""
ALLOWED = (WEIGHTS, INDEX, CONFIG, CARD)
"""The files of one autoencoder, beside those that its index names. No others are fetched."""
_INDEXED = re.compile(r"sae-\d{5}-of-\d{5}\.safetensors")

MOST_BYTES = {INDEX: 16 << 20, CONFIG: 16 << 20, CARD: 16 << 20}
"""Limits of the files that are read into memory."""

MOST_FILES = 100_000
"""Of a repository that are listed."""

_PART = re.compile(r"[^\\/:\x00-\x1f]+")
_OF_GIT = (".gitattributes", ".gitignore")


@dataclass(frozen=True)
class RemoteFile:
    """One file of a repository: path, size in bytes, and SHA-256, git's hash of a blob (SHA-1) or
    no hash."""

    path: str
    size: int
    sha256: str | None = None
    git_oid: str | None = None

    def fault(self, local: Path) -> str | None:
        """How a local file differs from this one in size or hash; None if it does not."""
        if (size := local.stat().st_size) != self.size:
            return f"{self.path}: expected {self.size} bytes, found {size}"
        kinds = (("SHA-256", self.sha256, sha256_of), ("git's hash", self.git_oid, git_oid))
        for kind, expected, hash_of in kinds:
            if expected is not None and (digest := hash_of(local)) != expected:
                return f"{self.path}: {kind} expected {expected}, found {digest}"
        return None


def git_oid(path: Path) -> str:
    """Git's hash of a file: the SHA-1 of "blob <size>", a zero byte, and the contents."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def folder_of(files: Iterable[RemoteFile], *, folder: str | None, prefix: str, where: str) -> str:
    """The folder ("" for the top) of the autoencoder.

    Args:
        folder: the requested folder. None: the only folder with an autoencoder, or the only one
            whose name begins with `prefix` (a cell's).
        where: the repository, for messages.

    Raises:
        UserError: no folder matches, or several do. The message lists the folders.
    """
    folders = {_parent(file.path) for file in files if _name(file.path) == CONFIG}
    holding = sorted(name for name in folders if _stays_below(name))
    if folder is not None:
        wanted = folder.strip("/.")
        if wanted not in holding:
            raise unknown(f"folder of {where}:", folder, [name or "." for name in holding])
        return wanted
    ours = [name for name in holding if _name(name).startswith(prefix)]
    matching = ours or holding
    if len(matching) != 1:
        shown = ", ".join(name or "." for name in matching) or "none"
        raise UserError(
            f"{where} must hold one autoencoder of {prefix}, or one at all; folders with a "
            f"{CONFIG}: {shown}; name one: folder=NAME"
        )
    return matching[0]


def autoencoder_files(files: Iterable[RemoteFile], folder: str, *, where: str) -> list[RemoteFile]:
    """The files of the autoencoder in `folder`, weights first.

    Raises:
        UserError: a file is missing or too large, or the folder has other files (such as pickles).
    """
    inside = {_name(file.path): file for file in files if _parent(file.path) == folder}
    place = f"{where}, folder {folder or '.'}"
    weights = INDEX if INDEX in inside else WEIGHTS
    missing = [name for name in (weights, CONFIG) if name not in inside]
    if missing:
        raise UserError(
            f"{place} lacks {', '.join(missing)}; it is no SAE in diffusae's own format (download "
            "an SAE of another library, then run `diffusae import source=DIR`)"
        )
    indexed = sorted(filter(_INDEXED.fullmatch, inside)) if weights == INDEX else []
    foreign = sorted(inside.keys() - set(ALLOWED) - set(indexed) - set(_OF_GIT))
    if foreign:
        raise UserError(
            f"{place} holds {', '.join(foreign)} beside an SAE; only {', '.join(ALLOWED)} are "
            "taken, never pickles or code; ask its owner for a clean folder, or name another: "
            "folder=NAME"
        )
    together(
        f"{place}: {name} has {inside[name].size} bytes, but may have at most {most}; do not use it"
        for name, most in MOST_BYTES.items()
        if name in inside and inside[name].size > most
    )
    return [inside[name] for name in (*indexed, *ALLOWED) if name in inside]


def _stays_below(folder: str) -> bool:
    """Whether a listed folder stays inside of the directory that it is fetched into."""
    parts = folder.split("/") if folder else []
    return all(part not in (".", "..") and _PART.fullmatch(part) for part in parts)


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def listing_lines(files: Sequence[RemoteFile]) -> list[str]:
    """One line per file (path, size, SHA-256), and the sum."""
    width = max((len(file.path) for file in files), default=0)
    lines = [f"{f.path:<{width}}  {_size(f.size):>10}  sha256 {f.sha256}" for f in files]
    return [*lines, f"{'together':<{width}}  {_size(sum(file.size for file in files)):>10}"]


def _size(count: int) -> str:
    for unit, bytes_of in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= bytes_of:
            return f"{count / bytes_of:.1f} {unit}"
    return f"{count} B"
