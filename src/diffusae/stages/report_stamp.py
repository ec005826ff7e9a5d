"""Whether a report shows what there is: a stamp of all that it is made of, and of the page itself."""

from __future__ import annotations

import json
from pathlib import Path

from diffusae.files import atomic_write_json, sha256_of
from diffusae.runs.record import signature
from diffusae.runs.survey import Kept
from diffusae.stages.study import Study

FILE = "shows.json"
SETTINGS = ("grid", "emergence", "three_stages")
"""Parts of the configuration that decide how runs are summarised."""


def contents_of(study: Study, runs: list[Kept]) -> str:
    """One value for all that a page is made of: the status and the contents of every run, and how they are summarised."""
    settings = {name: study.part(name) for name in SETTINGS}
    return signature(settings | {"runs": sorted((_said(study, run) for run in runs), key=str)})


def _said(study: Study, run: Kept) -> list[str | None]:
    place = run.directory.relative_to(study.directory).as_posix()
    if run.record is None:
        return [place, run.status]
    return [place, run.status, run.record.signature, run.record.started, run.record.contents]


def stamp(page: Path, contents: str) -> None:
    """Say beside a page what it shows."""
    atomic_write_json(page.with_name(FILE), _stamp(page, contents))


def is_shown(page: Path, contents: str) -> bool:
    """Whether the page is there as it was written, of these contents."""
    try:
        return json.loads(page.with_name(FILE).read_text(encoding="utf-8")) == _stamp(page, contents)
    except (OSError, ValueError):  # there is none, or it is damaged
        return False


def _stamp(page: Path, contents: str) -> dict[str, str]:
    return {"contents": contents, "page": sha256_of(page)}
