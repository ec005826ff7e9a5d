"""What a disturbed study must have in common with an undisturbed one: every byte, but for what is
named here.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from diffusae.files import TEMPORARY_SUFFIX

Outcome = Literal["identical", "remedied", "lost", "wrong", "unclear"]
"""identical: the same command alone leaves every byte as it was to be. remedied: an error named
what to do, and that leads there. lost: a file is missing, or nothing that the messages say leads to
an end. wrong: a command says that all is well, and a byte differs. unclear: a traceback, another
exit code, or something left lying about.
"""

OF_THE_MOMENT = (".lock", ".lock.json", ".log", "shows.json")
"""Endings of files that say who works, what was said when, and from runs of which times a report is
made: no results.
"""

RUN_JSON = ("started", "finished", "duration_s", "pid", "host", "config", "checksum")
"""Fields of run.json that say when, how long and by which command, and the checksum of it all
(`label` annotates where that is needed, with its own `config`; what decides a result is in
`determines`). Times of its outputs are of this kind.
"""

_TIMES = re.compile(rb'<td class="num">[^<]*</td><td><code>|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00')
"""In the report: how long a stage took, and when the collection was made."""


@dataclass(frozen=True)
class Difference:
    """One file that is not as it should be."""

    path: str
    what: Literal["missing", "differs", "left over"]

    def __str__(self) -> str:
        return f"{self.path} {self.what}"


def is_result(path: Path) -> bool:
    """Whether a file belongs to what is compared."""
    return not path.name.endswith(OF_THE_MOMENT)


def contents(path: Path) -> bytes:
    """A file's bytes without what legitimately differs between two runs."""
    data = path.read_bytes()
    if path.name == "run.json":
        return json.dumps(_without_moment(json.loads(data)), sort_keys=True).encode()
    if path.suffix == ".html":
        return _TIMES.sub(b"", data)
    return data


def _without_moment(record: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in record.items() if name not in RUN_JSON}
    if isinstance(outputs := kept.get("outputs"), dict):
        kept["outputs"] = {name: {**told, "mtime_ns": None} for name, told in outputs.items()}
    return kept


def differences(expected: Path, found: Path) -> list[Difference]:
    """Every file below `found` that differs from the one below `expected`."""
    names = {
        folder: {str(path.relative_to(folder)) for path in folder.rglob("*") if _counts(path)}
        for folder in (expected, found)
    }
    missing = [Difference(name, "missing") for name in sorted(names[expected] - names[found])]
    extra = [Difference(name, "left over") for name in sorted(names[found] - names[expected])]
    differing = [
        Difference(name, "differs")
        for name in sorted(names[expected] & names[found])
        if not _same(expected / name, found / name)
    ]
    return missing + differing + extra


def _counts(path: Path) -> bool:
    return path.is_file() and is_result(path)


def _same(expected: Path, found: Path) -> bool:
    try:
        return contents(expected) == contents(found)
    except (ValueError, AttributeError, TypeError):  # a run.json that is none
        return False


def judged(found: list[Difference], *, remedied: bool) -> Outcome:
    """The outcome of a study that was brought to its end with exit code 0."""
    kinds = {difference.what for difference in found}
    if "differs" in kinds:
        return "wrong"
    if "missing" in kinds:
        return "lost"
    if any(not difference.path.endswith(TEMPORARY_SUFFIX) for difference in found):
        return "wrong"
    if kinds:
        return "unclear"
    return "remedied" if remedied else "identical"
