"""Writing files so that a kill at any moment leaves either the old file, the new file, or a
temporary one; and reading them so that what is read is what was written.

A finished run's `run.json` (`diffusae.runs.record`) has the size, the time and the SHA-256 of every
output beside it; whoever reads an output asks `verified` for it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from diffusae.errors import UserError
from diffusae.masking import masked_json, masked_value
from diffusae.parsing import json_value

TEMPORARY_SUFFIX = ".partial"
RECORD = "run.json"
CHECKSUM = "checksum"
MOST_SEALED = 2**26
"""Bytes of the largest file that `read_sealed` takes."""

MAKERS = {"emergence": "report", "three_stages": "report", "collect_part": "collect"}
"""Stages that a command of another name carries out."""

Outputs = Mapping[str, Mapping[str, Any]]
"""A file's name -> `size` (bytes), `mtime_ns` (nanoseconds since 1970), `sha256`."""


@contextmanager
def atomic_path(path: Path | str, *, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it takes the final name on success and is removed on
    error.

    The data are flushed to the disk before the rename, so the final name never shows a cut file,
    and the rename after it, so that what is said to be finished is so after a loss of power.
    `durable=False` leaves both to the system, for what nobody relies on.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}{TEMPORARY_SUFFIX}")
    try:
        yield temporary
        if durable:
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
        os.replace(temporary, path)
        if durable:
            flush_directory(path.parent)
    except OSError as error:
        if error.filename is None:  # a full disk is told by a write, which knows no name
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def flush_directory(directory: Path | str) -> None:
    """Bring the names in a directory to the disk; where the file system has no such thing, nothing
    is done."""
    try:
        descriptor = os.open(directory, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno in (errno.EIO, errno.ENOSPC, errno.EDQUOT):
            raise
    finally:
        os.close(descriptor)


def is_left_over(path: Path) -> bool:
    """Whether a temporary file is that of a process of this machine that was killed before the
    rename."""
    owner = re.search(rf"\.(\d{{1,9}}){re.escape(TEMPORARY_SUFFIX)}$", path.name)
    return owner is not None and not _is_another_live_process(int(owner[1]))


def remove_left_overs(directory: Path | str) -> None:
    """Remove the temporary files that killed processes of this machine left directly in a
    directory, if there is one."""
    for temporary in Path(directory).glob(f"*{TEMPORARY_SUFFIX}"):
        if is_left_over(temporary):
            temporary.unlink(missing_ok=True)


def _is_another_live_process(pid: int) -> bool:
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def atomic_write_json(path: Path | str, value: Any, *, durable: bool = True) -> None:
    """Write `value` as indented JSON under its final name only when it is whole. NaN and infinities
    are refused, secrets masked."""
    text = masked_json(json.dumps(value, indent=2, allow_nan=False, sort_keys=False), indent=2)
    with atomic_path(path, durable=durable) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def digest_of(data: bytes) -> str:
    """SHA-256 of bytes, as hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_of(path: Path | str) -> str:
    """The SHA-256 of a file's bytes, as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_sealed(path: Path | str, value: Mapping[str, Any]) -> None:
    """Write a JSON object with the SHA-256 of its own values, secrets masked, in `checksum`."""
    plain = masked_value(json.loads(json.dumps(value, allow_nan=False)))
    atomic_write_json(path, {**plain, CHECKSUM: _checksum(plain)})


def read_sealed(path: Path | str) -> dict[str, Any]:
    """The object that `write_sealed` wrote, `checksum` included; one without a `checksum` is given
    as it is.

    Raises:
        OSError: there is no such file, or it cannot be read.
        ValueError: it is no JSON object, or its values are not those of its checksum.
    """
    if (size := Path(path).stat().st_size) > MOST_SEALED:
        raise ValueError(f"{size} bytes are too many, at most {MOST_SEALED} are expected")
    value = json_value(Path(path).read_bytes())
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, found {type(value).__name__}")
    told = {name: each for name, each in value.items() if name != CHECKSUM}
    if CHECKSUM in value and value[CHECKSUM] != (found := _checksum(told)):
        raise ValueError(f"its checksum is {value[CHECKSUM]}, its values have {found}")
    return value


def _checksum(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(
        json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    ).hexdigest()


def outputs_in(directory: Path | str) -> Outputs:
    """The outputs of a run that has just ended: every file directly in its directory but run.json,
    hidden files and temporaries."""
    found = {}
    for path in sorted(Path(directory).iterdir()):
        if path.name == RECORD or path.name.startswith(".") or path.suffix == TEMPORARY_SUFFIX:
            continue
        if path.is_file():
            told = path.stat()
            found[path.name] = {
                "size": told.st_size, "mtime_ns": told.st_mtime_ns, "sha256": sha256_of(path)
            }  # fmt: skip
    return found


def recorded_outputs(record: Mapping[str, Any]) -> Outputs | None:
    """The outputs that a run.json tells; None: its run is not finished, or an earlier version wrote
    it.

    Raises:
        ValueError: they are not told as `outputs_in` does, one lies elsewhere, or they have no
            checksum.
    """
    outputs = record.get("outputs")
    if outputs is None:
        return None
    kinds = {"size": int, "mtime_ns": int, "sha256": str}
    if not isinstance(outputs, dict) or not all(
        isinstance(told, dict)
        and all(isinstance(told.get(name), kind) for name, kind in kinds.items())
        for told in outputs.values()
    ):
        raise ValueError("its outputs are no files with size, mtime_ns and sha256")
    if led_out := [
        name
        for name in outputs
        if Path(name).name != name or name in ("", "..") or set(name) & {"\0", "\\"}
    ]:
        raise ValueError(
            f"it lists {led_out[0]!r}, and a run's outputs lie directly in its directory"
        )
    if CHECKSUM not in record:
        raise ValueError("it has outputs and no checksum")
    return outputs


def output_fault(path: Path, expected: Mapping[str, Any], *, read: bool = False) -> str | None:
    """How an output differs from what its run left, in words; None: in nothing.

    Its content is looked at where its size or time differ (a copy's times do; they are then set as
    they were), and with `read` always.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            return f"{path} is no file, expected one of {expected['size']} bytes"
        if found.st_size != expected["size"]:
            return f"{path} has {found.st_size} bytes, expected {expected['size']}"
        same_time = found.st_mtime_ns == expected["mtime_ns"]
        key = (str(path), found.st_mtime_ns, found.st_ctime_ns)
        if same_time and not read and key not in _damaged:
            return None
        digest = sha256_of(path) if read else _digest_of(*key)
        if digest != expected["sha256"]:
            _damaged.add(key)
            if same_time:  # so that the next look at size and time, of any process, sees it too
                with suppress(OSError):
                    os.utime(path, follow_symlinks=False)  # what a link leads to is not ours
            return f"{path} has SHA-256 {digest}, expected {expected['sha256']}"
        if not same_time:
            with suppress(OSError):  # a disk that cannot be written
                os.utime(path, ns=(found.st_atime_ns, expected["mtime_ns"]), follow_symlinks=False)
    except FileNotFoundError:
        return f"{path} is missing, expected {expected['size']} bytes"
    except OSError as error:
        return f"{path} cannot be read ({error.strerror})"
    return None


_damaged: set[tuple[str, int, int]] = set()
"""Files that were found damaged although size and time are as they were: path, time, time of
change."""


@lru_cache(maxsize=4096)
def _digest_of(path: str, _mtime_ns: int, _ctime_ns: int) -> str:
    return sha256_of(path)


def verified(path: Path | str) -> Path:
    """The path of an output, once its bytes are those that the run.json beside it tells.

    Nothing is compared where there is no run.json, its run is not finished, or an earlier version
    wrote it.

    Raises:
        UserError: the file is missing, its bytes are others, or the run did not make it; or
            run.json is damaged.
    """
    path = Path(path)
    record = path.with_name(RECORD)
    try:
        told = read_sealed(record)
        outputs = recorded_outputs(told)
    except FileNotFoundError:
        return path
    except (OSError, ValueError) as error:
        raise UserError(f"{record} is damaged ({error}); {again()}") from error
    if outputs is None:
        return path
    if path.name not in outputs:
        raise UserError(
            f"{path} is not among the outputs that {record} lists:"
            f" {', '.join(outputs) or '(none)'}; move it away"
        )
    if path.is_dir():
        size = outputs[path.name]["size"]
        raise UserError(
            f"{path} is a directory, expected a file of {size} bytes: move it away; then"
            f" {again(told.get('stage'))}"
        )
    if fault := output_fault(path, outputs[path.name], read=True):
        raise UserError(f"damaged: {fault}; {again(told.get('stage'))}")
    return path


def again(stage: str | None = None) -> str:
    """What makes a damaged run's outputs again: the command that made them."""
    made = MAKERS.get(str(stage), stage)
    told = "the command that made it" if made is None else f"`diffusae {made}`"
    return f"{told} with the same overrides, or `diffusae run`, makes it again and nothing else"
