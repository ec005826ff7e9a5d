"""run.json: what made the contents of a directory, their hashes, and whether they are finished."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import platform
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from diffusae.errors import UserError
from diffusae.files import (
    RECORD,
    Outputs,
    again,
    output_fault,
    outputs_in,
    read_sealed,
    recorded_outputs,
    remove_left_overs,
    write_sealed,
)
from diffusae.parsing import typed

log = logging.getLogger(__name__)

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
Status = Literal["running", "finished", "failed"]


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """The contents of run.json.

    Attributes:
        determines: the values that decide the result.
        parents: the signatures of the runs that it was made from.
        signature: of `determines` and `parents`.
        config: the whole resolved configuration.
        git_commit, git_dirty: of the sources, and whether they differed from it; None outside a
            repository.
        started, finished: UTC. duration_s: seconds.
        outputs: the run's files, once it is finished. made_from: the `contents` of the parents.
            Records of earlier versions have neither, and their files are not checked.
    """

    stage: str
    status: Status
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
    outputs: Outputs | None = None
    made_from: Mapping[str, str] = field(default_factory=dict)

    @property
    def contents(self) -> str | None:
        """One value for the bytes of all outputs; None where they are not recorded."""
        if self.outputs is None:
            return None
        return signature({name: output["sha256"] for name, output in self.outputs.items()})


class Parent(str):
    """The signature of a finished run, for a later run's `parents`, with the `contents` of its
    record.
    """

    contents: str | None

    def __new__(cls, signature: str, contents: str | None = None) -> Parent:
        parent = super().__new__(cls, signature)
        parent.contents = contents
        return parent

    @classmethod
    def of(cls, record: RunRecord) -> Parent:
        """The run of a record, as a parent."""
        return cls(record.signature, record.contents)


class DamagedRecord(UserError):
    """A run.json that is not as it was written."""


def signature(values: Mapping[str, Any]) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of `values` as JSON with sorted keys.

    Raises:
        UserError: a value is not plain JSON (NaN and infinities included).
    """
    return hashlib.sha256(_canonical(values).encode()).hexdigest()[:16]


def run_signature(*, determines: Mapping[str, Any], parents: Mapping[str, str]) -> str:
    """The signature of a run with these values and parents."""
    return signature({"determines": determines, "parents": parents})


def read_record(directory: Path | str) -> RunRecord | None:
    """The directory's run.json, or None where there is none.

    Raises:
        DamagedRecord: it is not as it was written.
        UserError: it is no file, or may not be read.
    """
    path = Path(directory) / RECORD
    try:
        value = read_sealed(path)
        recorded_outputs(value)
        known = {
            entry.name: value[entry.name]
            for entry in fields(RunRecord)
            if entry.name in value
            or (entry.default is MISSING and entry.default_factory is MISSING)
        }
        return typed(RunRecord, known)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedRecord(
            f"{path} is damaged ({error!r}); remove it and run the same command again"
        ) from error
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}); move it away and run the same command again"
        ) from error


def run_fault(directory: Path | str, record: RunRecord, *, read: bool = False) -> str | None:
    """Why a run does not count as finished: its status, or an output that is missing or changed.

    Args:
        read: read every output; otherwise only those whose size or time differs.
    """
    if record.status != "finished":
        return f"{directory}: its run is {record.status}"
    for name, output in (record.outputs or {}).items():
        if fault := output_fault(Path(directory) / name, output, read=read):
            return f"damaged: {fault}"
    return None


def state(
    directory: Path | str,
    *,
    determines: Mapping[str, Any],
    parents: Mapping[str, str] | Callable[[], Mapping[str, str]],
) -> State:
    """Whether `directory` holds this very run, and whether it is finished.

    A run is unfinished while it runs, after a failure or a kill, where an output is missing or
    changed, and where a parent has other contents now.

    Args:
        parents: a function is called only where all else agrees: to know the parents can mean to
            read large files.

    Raises:
        UserError: it holds a run with another signature; the difference is shown key by key.
    """
    try:
        record = read_record(directory)
    except DamagedRecord as error:
        warn_once(
            f"{Path(directory) / RECORD} is damaged ({error.__cause__!r}): its run is made again"
        )
        record = None
    if callable(parents):
        if record is not None:
            _require_same(directory, record, determines, record.parents)
        parents = parents()
    if record is None:
        return "absent"
    _require_same(directory, record, determines, parents)
    if record.status != "finished":
        return "unfinished"
    if fault := run_fault(directory, record) or _outdated(directory, record, parents):
        warn_once(f"{fault}: this run is made again")
        return "unfinished"
    return "finished"


def _require_same(
    directory: Path | str,
    record: RunRecord,
    determines: Mapping[str, Any],
    parents: Mapping[str, str],
) -> None:
    if record.signature == run_signature(determines=determines, parents=parents):
        return
    old = _flat({**record.determines, "parents": record.parents})
    new = _flat(json.loads(_canonical({**determines, "parents": parents})))
    lines = [
        f"\n  {key}: {_shown(old, key)} -> {_shown(new, key)}"
        for key in sorted(old.keys() | new.keys())
        if _shown(old, key) != _shown(new, key)
    ]
    raise UserError(
        f"{directory} holds another run of {record.stage}; it differs (there -> now)"
        f" in:{''.join(lines)}\nchoose another experiment name or directory, or remove this one"
    )


def _outdated(directory: Path | str, record: RunRecord, parents: Mapping[str, str]) -> str | None:
    """Which parent was made again with other contents."""
    for stage, parent in parents.items():
        now, then = getattr(parent, "contents", None), record.made_from.get(stage)
        if now is not None and then is not None and now != then:
            return f"{directory} was made from other results of {stage} than there are now"
    return None


@functools.cache
def warn_once(message: str) -> None:
    """Log a warning once, though several steps of a command come to it."""
    log.warning("%s", message)


def parent_signature(directory: Path | str, *, stage: str) -> Parent:
    """The signature of the finished run in `directory`, for a later run's `parents`.

    Raises:
        UserError: there is none, it is not finished, or an output of it is missing or changed;
            `stage` names the command that makes it.
    """
    record = read_record(directory)
    if record is None or record.status != "finished":
        have = "nothing" if record is None else f"a run that is {record.status}"
        raise UserError(
            f"a finished run of {stage} is needed in {directory}, found {have}; run `diffusae"
            f" {stage}`"
        )
    if fault := run_fault(directory, record):
        raise UserError(f"{fault}; {again(record.stage)}")
    return Parent.of(record)


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
    """Keep `directory`'s run.json while the block runs: `running`, then `finished`, or `failed`
    with its error.

    A run that is killed stays `running`; `state` calls it unfinished, and the temporary files that
    it left in the directory go when the next one begins. The caller holds the directory's lock. At
    the end the files of the directory are its outputs (`diffusae.files.outputs_in`).

    Raises:
        UserError: the directory holds a run with another signature, or a directory where a file is
            to be.
    """
    state(directory, determines=determines, parents=parents)
    _require_files(directory)
    remove_left_overs(directory)
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
        made_from={
            name: contents
            for name, parent in parents.items()
            if (contents := getattr(parent, "contents", None)) is not None
        },
    )
    path = Path(directory) / RECORD
    write_sealed(path, asdict(record))
    begun = time.monotonic()

    def close(status: Literal["finished", "failed"], error: str | None) -> None:
        seconds = round(time.monotonic() - begun, 3)
        outputs = outputs_in(directory) if status == "finished" else None
        ended = replace(
            record, status=status, finished=_now(), duration_s=seconds, error=error, outputs=outputs
        )
        write_sealed(path, asdict(ended))

    try:
        yield record
    except BaseException as error:  # an interrupt or an exit leaves the run unfinished as well
        close("failed", f"{type(error).__name__}: {error}")
        raise
    close("finished", None)


def _require_files(directory: Path | str) -> None:
    """Refuse a directory in the place of an output before the run begins."""
    try:
        record = read_record(directory)
    except DamagedRecord:
        return
    for name in (record and record.outputs) or {}:
        if (Path(directory) / name).is_dir():
            raise UserError(
                f"{Path(directory) / name} is a directory, and a file of this run belongs there;"
                " move it away, and the same command makes the file again"
            )


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
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return versions


@functools.cache
def _git() -> tuple[str | None, bool | None]:
    """The sources' commit, and whether they differ from it; (None, None) without a repository or
    git.
    """

    def ask(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=20
        ).stdout

    try:
        return ask("rev-parse", "HEAD").strip(), bool(
            ask("status", "--porcelain", "--", ".").strip()
        )
    except (OSError, subprocess.SubprocessError):
        return None, None
