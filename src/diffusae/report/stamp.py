"""A stamp beside a page that is made of many runs: what it shows, and the page's own hash."""

from __future__ import annotations

from pathlib import Path

from diffusae.files import atomic_write_json, sha256_of
from diffusae.parsing import read_json

FILE = "shows.json"


def stamp(page: Path, contents: str) -> None:
    """Say beside a page what it shows."""
    atomic_write_json(page.with_name(FILE), _stamp(page, contents))


def is_shown(page: Path, contents: str) -> bool:
    """Whether the page is there as it was written, of these contents."""
    try:
        return read_json(page.with_name(FILE), remedy="") == _stamp(page, contents)
    except (OSError, ValueError):  # there is none, or it is damaged
        return False


def _stamp(page: Path, contents: str) -> dict[str, str]:
    return {"contents": contents, "page": sha256_of(page)}
