"""The files of a pretrained model: a local folder, or a hub id that is downloaded. Never a
pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from diffusae.errors import UserError
from diffusae.files import sha256_of

PICKLED = (".bin", ".ckpt", ".pt", ".pth", ".pkl")


def is_hub_id(source: str | Path) -> bool:
    """Whether `source` is "owner/name" rather than a folder."""
    path, name = Path(source).expanduser(), str(source)
    if isinstance(source, Path) or path.is_dir() or path.is_absolute():
        return False
    return not name.startswith((".", "~")) and name.count("/") == 1


def local_folder(
    source: str | Path,
    *,
    setting: str,
    holds: str,
    revision: str | None,
    download: Callable[[str], Any],
) -> Path:
    """The local folder of `source`: itself, or what `download` fetches for a hub id ("owner/name").

    Args:
        setting: the config key of the source, for messages.
        holds: what a folder must hold, for messages.
        revision: the branch, tag or commit that `download` asks for, for messages.

    Raises:
        UserError: `source` is neither a folder nor a hub id, or the download fails. The message
            names a local folder that would serve.
    """
    local = Path(source).expanduser()
    if local.is_dir():
        return local.resolve()
    name = str(source)
    if (
        isinstance(source, Path)
        or local.is_absolute()
        or name.startswith((".", "~"))
        or name.count("/") != 1
    ):
        raise UserError(
            f"there is no folder {local.absolute()}, and {name!r} is no hub id (owner/name); "
            f"set {setting} to a folder that holds {holds}, or to a hub id"
        )
    try:
        return Path(download(name))
    except Exception as error:
        # The hub's clients have no common error class
        serving = Path.cwd() / "models" / name.replace("/", "--")
        pinned = f" --revision {revision}" if revision else ""
        raise UserError(
            f"the hub did not serve {name!r} (revision {revision or 'main'}):"
            f" {first_line(_root(error))}\nA local copy would serve: set {setting}={serving} once"
            f" that folder holds {holds}. Where the hub can be reached, this makes it:\n  hf"
            f" download {name}{pinned} --local-dir {serving}"
        ) from error


def is_inside(path: Path, folder: Path) -> bool:
    """Whether a file lies in the folder, links followed. Links of the hub's cache into its `blobs`
    count as inside."""
    target, root = path.resolve(), folder.resolve()
    blobs = [
        parent.parent / "blobs" for parent in (root, *root.parents) if parent.name == "snapshots"
    ]
    return any(target.is_relative_to(root) for root in (root, *blobs[:1]))


def require_own_files(folder: Path) -> None:
    """`UserError` for a folder with links to files outside of it."""
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() and not is_inside(path, folder):
            raise UserError(
                f"{path} is a link that leads out of {folder}, to {path.resolve()}; put a copy of "
                "that file in its place"
            )


def refuse_pickles(folder: Path) -> None:
    """`UserError` for a folder whose weights exist as pickles only: reading those can run code."""
    files = list(folder.glob("*"))
    pickles = sorted(file.name for file in files if file.suffix in PICKLED)
    if pickles and not any(file.suffix == ".safetensors" for file in files):
        raise UserError(
            f"{folder} holds its weights as a pickle only ({pickles[0]}), which is never read; "
            "convert them to safetensors (save_pretrained with safe_serialization=True)"
        )


def fingerprint(
    folder: str | Path, *, suffixes: Iterable[str] = (".safetensors", ".json")
) -> str | None:
    """A hash (16 hex digits) of the names and contents of a model folder's files. None for a hub
    id."""
    root = Path(folder)
    if not root.is_dir():
        return None
    kept = tuple(suffixes)
    files = {
        str(path.relative_to(root)): sha256_of(path)
        for path in sorted(root.rglob("*"))
        if path.suffix in kept
    }
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()[:16]


def first_line(error: BaseException) -> str:
    """An error's type and the first line of its message."""
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"


def _root(error: BaseException) -> BaseException:
    """The error that the others were raised from."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error
