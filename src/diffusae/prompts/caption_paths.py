"""The files that `prompts.path` names: one file, those of a folder, or those of a pattern."""

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
    """The regular files of a path, in the order of their names.

    Args:
        path: a file; a folder with files of one known format (Parquet often comes in parts); or a
            pattern, in which `**` means any number of folders.
        format: the format of all files. None: by suffix.

    Raises:
        UserError: there is no file, or one is not regular: a broken link, a pipe, a device.
    """
    if path is not None and not isinstance(path, str | Path):
        raise UserError(
            f"prompts.path={path} must be one text: a file, a folder, or a pattern such as "
            "'captions-*.txt'"
        )
    whole = Path(path or "").expanduser()
    try:
        if path and whole.is_dir():
            return _parts(whole, format)
        names = [str(whole)] if path and os.path.lexists(whole) else []
        if path and not names:
            names = sorted(glob.glob(str(whole), recursive=True))
    except UserError:
        raise
    except (OSError, ValueError) as error:
        raise UserError(f"prompts.path={path} cannot be read ({error}); mend it") from error
    if not names:
        raise UserError(
            f"prompts.path={path} is neither a file nor a pattern of files; give text, CSV, JSONL, "
            "Parquet or tar"
        )
    paths = [Path(name) for name in names]
    together(f"{file} is {what}" for file in paths if (what := _fault(file)))
    return paths


def _parts(folder: Path, format: str | None) -> list[Path]:
    """The files of a folder, without hidden ones and notes of other programs (`_...`)."""
    formats: dict[str, list[Path]] = {}
    for file in sorted(folder.iterdir()):
        if file.name.startswith((".", "_")) or file.is_dir():
            continue
        try:
            formats.setdefault(format_of(file, format), []).append(file)
        except UserError:
            continue
    if len(formats) != 1:
        several = f"files of several formats ({', '.join(sorted(formats))})"
        raise UserError(
            f"{folder} is a folder with {several if formats else 'no file of a known format'}; set "
            f"prompts.path to a file or a pattern, such as '{folder}/**/*.parquet'"
        )
    paths = next(iter(formats.values()))
    together(f"{file} is {what}" for file in paths if (what := _fault(file)))
    return paths


def _fault(path: Path) -> str:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return "a link to a missing file; mend the link, or give the file"
    except OSError as error:
        return f"not readable ({error.strerror or error}); let this user read it"
    return next((what for test, what in _KINDS if test(mode)), "")
