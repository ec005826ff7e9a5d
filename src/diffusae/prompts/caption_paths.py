"""Which files a path of captions means: one, those of a folder, or those of a pattern."""

from __future__ import annotations

import glob
import os
import stat
from pathlib import Path

from diffusae.errors import UserError, together
from diffusae.prompts.caption_files import format_of

_KINDS = (
    (stat.S_ISDIR, "a folder; give its files by a pattern"),
    (stat.S_ISFIFO, "a pipe; write it into a file"),
    (stat.S_ISSOCK, "a socket; give a file"),
    (stat.S_ISCHR, "a device; give a file"),
    (stat.S_ISBLK, "a device; give a file"),
)


def caption_paths(path: str | Path | None, format: str | None) -> list[Path]:
    """The regular files that a path means, in the order of their names.

    Args:
        path: a file; a folder, for its files of a known format (Parquet is often written in parts);
            or a pattern, where `**` means any number of folders.
        format: of all files; None: told by the suffix.

    Raises:
        UserError: there is none, or one is no regular file: a link to nothing, a pipe, a device.
    """
    if path is not None and not isinstance(path, str | Path):
        raise UserError(
            f"prompts.path={path} must be one text: a file, a folder, or a pattern such as"
            " 'captions-*.txt'"
        )
    whole = Path(path or "").expanduser()
    try:
        if path and whole.is_dir():
            return _parts(whole, format)
        found = (
            [str(whole)]
            if path and os.path.lexists(whole)
            else sorted(glob.glob(str(whole), recursive=True))
            if path
            else []
        )
    except UserError:
        raise
    except (OSError, ValueError) as error:
        raise UserError(f"prompts.path={path} cannot be read ({error}); mend it") from error
    if not found:
        raise UserError(
            f"prompts.path={path} is not a file, nor a pattern of any; give text, CSV, JSONL,"
            " Parquet or tar"
        )
    paths = [Path(each) for each in found]
    together(f"{each} is {what}" for each in paths if (what := _fault(each)))
    return paths


def _parts(folder: Path, format: str | None) -> list[Path]:
    """The files of a folder; hidden ones and those that begin with _ are notes of the program that
    wrote it."""
    files = sorted(
        each
        for each in folder.iterdir()
        if not each.name.startswith((".", "_")) and not each.is_dir()
    )
    formats: dict[str, list[Path]] = {}
    for file in files:
        try:
            formats.setdefault(format_of(file, format), []).append(file)
        except UserError:
            continue
    if len(formats) != 1:
        has = (
            f"files of several formats ({', '.join(sorted(formats))})"
            if formats
            else "no file of a known format"
        )
        raise UserError(
            f"{folder} is a folder with {has}; set prompts.path to a file or a pattern, such as"
            f" '{folder}/**/*.parquet'"
        )
    paths = next(iter(formats.values()))
    together(f"{each} is {what}" for each in paths if (what := _fault(each)))
    return paths


def _fault(path: Path) -> str:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return "a link to a file that is not there; mend the link, or give the file"
    except OSError as error:
        return f"not readable ({error.strerror or error}); let this user read it"
    return next((what for test, what in _KINDS if test(mode)), "")
