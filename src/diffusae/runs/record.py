"""run.json: what made a directory's contents, and whether they are finished."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from diffusae.errors import UserError
from diffusae.files import TEMPORARY_SUFFIX, atomic_write_json, is_left_over

RECORD = "run.json"
PACKAGES = (
    "diffusae",
    "torch",
    "diffusers",
    "transformers",
    "pytorch-lightning",
    "webdataset",
    "wandb",
    "safetensors",
    "numpy",
)

State = Literal["absent", "finished", "unfinished"]


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """The contents of run.json.

    `determines` are the values that decide the result, `parents` the signatures of the runs it was made from;
    the two make the `signature`. `config` is the whole resolved configuration. `git_dirty` tells whether the
    sources differed from `git_commit`; both are None outside a repository. Times are UTC, `duration_s`
    seconds.
    """

    stage: str
    status: Literal["running", "finished", "failed"]
    signature: str
    determines: Mapping[str, Any]
    parents: Mapping[str, str]
    config: Mapping[str, Any]
    seed: int | None
    git_commit: str | None
    git_dirty: bool | None
    versions: Mapping[str, str | None]
    device: str
    host: str
    pid: int
    started: str
    finished: str | None = None
    duration_s: float | None = None
    error: str | None = None


def signature(values: Mapping[str, Any]) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of `values` as JSON with sorted keys.

    Raises:
        UserError: a value is not plain JSON (NaN and infinities included).
    """
    return hashlib.sha256(_canonical(values).encode()).hexdigest()[:16]


def run_signature(*, determines: Mapping[str, Any], parents: Mapping[str, str]) -> str:
    """The signature of a run: of the values that determine its result and of the runs it is made from."""
    return signature({"determines": determines, "parents": parents})


def read_record(directory: Path | str) -> RunRecord | None:
    """The directory's run.json, or None where there is none. Raises `UserError` where it is damaged."""
    path = Path(directory) / RECORD
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        return RunRecord(**{field.name: value[field.name] for field in fields(RunRecord)})
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error!r}); remove it and run the same command again") from error


def state(directory: Path | str, *, determines: Mapping[str, Any], parents: Mapping[str, str]) -> State:
    """Whether `directory` holds this very run: not at all, finished, or begun (running, failed or killed).

    Raises:
        UserError: it holds a run with another signature; the difference is shown key by key.
    """
    found = read_record(directory)
    if found is None:
        return "absent"
    if found.signature != run_signature(determines=determines, parents=parents):
        old = _flat({**found.determines, "parents": found.parents})
        new = _flat(json.loads(_canonical({**determines, "parents": parents})))
        lines = [
            f"\n  {key}: {_shown(old, key)} -> {_shown(new, key)}"
            for key in sorted(old.keys() | new.keys())
            if _shown(old, key) != _shown(new, key)
        ]
        raise UserError(
            f"{directory} holds another run of {found.stage}; it differs (there -> now) in:{''.join(lines)}\n"
            "choose another experiment name or directory, or remove this one"
        )
    return "finished" if found.status == "finished" else "unfinished"


def parent_signature(directory: Path | str, *, stage: str) -> str:
    """The signature of the finished run in `directory`, for a later run's `parents`.

    Raises:
        UserError: there is none or it is not finished; `stage` names the command that makes it.
    """
    found = read_record(directory)
    if found is None or found.status != "finished":
        have = "nothing" if found is None else f"a run that is {found.status}"
        raise UserError(
            f"a finished run of {stage} is needed in {directory}, found {have}; run `diffusae {stage}`"
        )
    return found.signature


@contextmanager
def run_record(
    directory: Path | str,
    *,
    stage: str,
    config: Mapping[str, Any],
    determines: Mapping[str, Any],
    parents: Mapping[str, str],
    seed: int | None,
    device: str = "cpu",
) -> Iterator[RunRecord]:
    """Keep `directory`'s run.json while the block runs: `running`, then `finished`, or `failed` with its error.

    A run that is killed stays `running`; `state` calls it unfinished, and the temporary files that it left in the
    directory go when the next one begins. The caller holds the directory's lock.

    Raises:
        UserError: the directory holds a run with another signature.
    """
    state(directory, determines=determines, parents=parents)
    for temporary in Path(directory).glob(f"*{TEMPORARY_SUFFIX}"):
        if is_left_over(temporary):
            temporary.unlink(missing_ok=True)
    commit, dirty = _git()
    record = RunRecord(
        stage=stage,
        status="running",
        signature=run_signature(determines=determines, parents=parents),
        determines=determines,
        parents=parents,
        config=config,
        seed=seed,
        git_commit=commit,
        git_dirty=dirty,
        versions=_versions(),
        device=device,
        host=socket.gethostname(),
        pid=os.getpid(),
        started=_now(),
    )
    path = Path(directory) / RECORD
    atomic_write_json(path, asdict(record))
    begun = time.monotonic()

    def close(status: Literal["finished", "failed"], error: str | None) -> None:
        seconds = round(time.monotonic() - begun, 3)
        ended = replace(record, status=status, finished=_now(), duration_s=seconds, error=error)
        atomic_write_json(path, asdict(ended))

    try:
        yield record
    except BaseException as error:  # an interrupt or an exit leaves the run unfinished as well
        close("failed", f"{type(error).__name__}: {error}")
        raise
    close("finished", None)


def _canonical(values: Any) -> str:
    try:
        return json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"a signature is made of plain JSON ({error}); give numbers, strings, lists, dicts"
        ) from error


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """A nested dict with dotted keys; an empty dict stays as a value."""
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    leaves: dict[str, Any] = {}
    for name, inner in value.items():
        leaves.update(_flat(inner, f"{prefix}.{name}" if prefix else str(name)))
    return leaves


def _shown(leaves: Mapping[str, Any], key: str) -> str:
    return _canonical(leaves[key]) if key in leaves else "(absent)"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@functools.cache
def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


@functools.cache
def _git() -> tuple[str | None, bool | None]:
    """The sources' commit, and whether they differ from it; (None, None) without a repository or git."""

    def ask(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout

    try:
        return ask("rev-parse", "HEAD").strip(), bool(ask("status", "--porcelain", "--", ".").strip())
    except (OSError, subprocess.SubprocessError):
        return None, None
