"""The comparison of a disturbed with an undisturbed study: all bytes but those named here."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from diffusae.files import TEMPORARY_SUFFIX

Outcome = Literal["identical", "remedied", "lost", "wrong", "unclear"]
"""identical: the same command alone gives the right bytes. remedied: an error named a remedy, which
works. lost: a file is missing, or no message leads to an end. wrong: a command reports success, and
a byte differs. unclear: a traceback, another exit code, or a file left over.
"""

OF_THE_MOMENT = (".lock", ".lock.json", ".log", "shows.json")
"""Endings of files of one moment, not results: locks, logs, and the times of a report's runs."""

RUN_JSON = ("started", "finished", "duration_s", "pid", "host", "config", "checksum")
"""Fields of run.json that say when, how long and by which command, and the checksum of all.

(`label` annotates if needed, with its own `config`; `determines` has what decides a result.) Times
of outputs are of this kind too.
"""

_TIMES = re.compile(rb'<td class="num">[^<]*</td><td><code>|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00')
"""In the report: the duration of a stage, and the time of the collection."""


@dataclass(frozen=True)
class Difference:
    """One wrong file."""

    path: str
    what: Literal["missing", "differs", "left over"]

    def __str__(self) -> str:
        return f"{self.path} {self.what}"


def is_result(path: Path) -> bool:
    """Whether a file is compared."""
    return not path.name.endswith(OF_THE_MOMENT)


def contents(path: Path) -> bytes:
    """A file's bytes without the parts that may differ between two runs."""
    data = path.read_bytes()
    if path.name == "run.json":
        return json.dumps(_without_moment(json.loads(data)), sort_keys=True).encode()
    if path.suffix == ".html":
        return _TIMES.sub(b"", data)
    return data


def _without_moment(record: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in record.items() if name not in RUN_JSON}
    if isinstance(outputs := kept.get("outputs"), dict):
        kept["outputs"] = {name: {**file, "mtime_ns": None} for name, file in outputs.items()}
    return kept


def differences(expected: Path, study: Path) -> list[Difference]:
    """Every file below `study` that differs from the one below `expected`."""
    names = {
        folder: {str(path.relative_to(folder)) for path in folder.rglob("*") if _counts(path)}
        for folder in (expected, study)
    }
    missing = [Difference(name, "missing") for name in sorted(names[expected] - names[study])]
    extra = [Difference(name, "left over") for name in sorted(names[study] - names[expected])]
    differing = [
        Difference(name, "differs")
        for name in sorted(names[expected] & names[study])
        if not _same(expected / name, study / name)
    ]
    return missing + differing + extra


def _counts(path: Path) -> bool:
    return path.is_file() and is_result(path)


def _same(expected: Path, study: Path) -> bool:
    try:
        return contents(expected) == contents(study)
    except (ValueError, AttributeError, TypeError):  # a run.json that is none
        return False


def judged(wrong: list[Difference], *, remedied: bool) -> Outcome:
    """The outcome of a study that ended with exit code 0."""
    kinds = {difference.what for difference in wrong}
    if "differs" in kinds:
        return "wrong"
    if "missing" in kinds:
        return "lost"
    if any(not difference.path.endswith(TEMPORARY_SUFFIX) for difference in wrong):
        return "wrong"
    if kinds:
        return "unclear"
    return "remedied" if remedied else "identical"
