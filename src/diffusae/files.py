"""Atomic writing, and reading that compares a file with its recorded hash.

A kill at any moment leaves the old file, the new file or a temporary file, never a cut one.

The `run.json` of a finished run (`diffusae.runs.record`) lists size, time and SHA-256 of its
outputs. Readers of an output call `verified` first.
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
"""Stages that are run by a command of another name."""

Outputs = Mapping[str, Mapping[str, Any]]
"""A file's name -> `size` (bytes), `mtime_ns` (nanoseconds since 1970), `sha256`."""


@contextmanager
def atomic_path(path: Path | str, *, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`: renamed to `path` on success, removed on error.

    The data are flushed to the disk before the rename, so `path` never shows a cut file. The rename
    is flushed too, so a finished file survives a loss of power. `durable=False` skips both flushes.
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
        if error.filename is None:  # a write to a full disk does not name the file
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def flush_directory(directory: Path | str) -> None:
    """Flush a directory's entries to the disk, if its file system can."""
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
    """Whether a temporary file was left by a killed process of this machine."""
    owner = re.search(rf"\.(\d{{1,9}}){re.escape(TEMPORARY_SUFFIX)}$", path.name)
    return owner is not None and not _is_another_live_process(int(owner[1]))


def remove_left_overs(directory: Path | str) -> None:
    """Remove the temporary files that killed processes of this machine left in a directory."""
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
    except PermissionError:  # another user's process
        pass
    return True


def atomic_write_json(path: Path | str, value: Any, *, durable: bool = True) -> None:
    """Write `value` as indented JSON, atomically. NaN and infinities are refused; secrets are
    masked."""
    text = masked_json(json.dumps(value, indent=2, allow_nan=False), indent=2)
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
    """Write a JSON object, secrets masked, with the SHA-256 of its values as `checksum`."""
    plain = masked_value(json.loads(json.dumps(value, allow_nan=False)))
    atomic_write_json(path, {**plain, CHECKSUM: _checksum(plain)})


def read_sealed(path: Path | str) -> dict[str, Any]:
    """The object that `write_sealed` wrote, `checksum` included. An object without `checksum`
    passes.

    Raises:
        OSError: there is no such file, or it cannot be read.
        ValueError: it is no JSON object, or its values do not match its checksum.
    """
    return _sealed(_sealed_bytes(path))


def _sealed_bytes(path: Path | str) -> bytes:
    if (size := Path(path).stat().st_size) > MOST_SEALED:
        raise ValueError(f"it has {size} bytes, at most {MOST_SEALED} are expected")
    return Path(path).read_bytes()


def _sealed(data: bytes) -> dict[str, Any]:
    value = json_value(data)
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, found {type(value).__name__}")
    values = {name: entry for name, entry in value.items() if name != CHECKSUM}
    if CHECKSUM in value and value[CHECKSUM] != (actual := _checksum(values)):
        raise ValueError(f"its checksum is {value[CHECKSUM]}, its values have {actual}")
    return value


def _checksum(value: Mapping[str, Any]) -> str:
    return digest_of(json.dumps(value, sort_keys=True, separators=(",", ":")).encode())


def outputs_in(directory: Path | str) -> Outputs:
    """Size, time and hash of a run's outputs: all files directly in its directory except run.json,
    hidden and temporary ones."""
    outputs = {}
    for path in sorted(Path(directory).iterdir()):
        if path.name == RECORD or path.name.startswith(".") or path.suffix == TEMPORARY_SUFFIX:
            continue
        if path.is_file():
            status = path.stat()
            outputs[path.name] = {
                "size": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": sha256_of(path)
            }  # fmt: skip
    return outputs


def recorded_outputs(record: Mapping[str, Any]) -> Outputs | None:
    """The outputs listed in a run.json. None if the run is not finished, or an old version wrote
    it.

    Raises:
        ValueError: an entry is not as `outputs_in` makes it, a file lies elsewhere, or there is no
            checksum.
    """
    outputs = record.get("outputs")
    if outputs is None:
        return None
    kinds = {"size": int, "mtime_ns": int, "sha256": str}
    if not isinstance(outputs, dict) or not all(
        isinstance(entry, dict)
        and all(isinstance(entry.get(name), kind) for name, kind in kinds.items())
        for entry in outputs.values()
    ):
        raise ValueError("its outputs must be files with size, mtime_ns and sha256")
    if led_out := [
        name
        for name in outputs
        if Path(name).name != name or name in ("", "..") or set(name) & {"\0", "\\"}
    ]:
        raise ValueError(
            f"it lists {led_out[0]!r}, but a run's outputs lie directly in its directory"
        )
    if CHECKSUM not in record:
        raise ValueError("it has outputs but no checksum")
    return outputs


def output_fault(path: Path, expected: Mapping[str, Any], *, read: bool = False) -> str | None:
    """How an output differs from what its run wrote, in words. None if it does not differ.

    The content is read only if the time differs, or with `read`. (A copy has other times. If its
    content is the same, its time is set to the recorded one.)
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return f"{path} is not a file, expected one of {expected['size']} bytes"
        if status.st_size != expected["size"]:
            return f"{path} has {status.st_size} bytes, expected {expected['size']}"
        same_time = status.st_mtime_ns == expected["mtime_ns"]
        key = (str(path), status.st_mtime_ns, status.st_ctime_ns)
        if same_time and not read and key not in _damaged:
            return None
        digest = sha256_of(path) if read else _digest_of(*key)
        if digest != expected["sha256"]:
            _damaged.add(key)
            if same_time:  # so that any process sees the damage by size and time alone
                with suppress(OSError):
                    os.utime(path, follow_symlinks=False)  # a link's target is not ours
            return f"{path} has SHA-256 {digest}, expected {expected['sha256']}"
        if not same_time:
            with suppress(OSError):  # a disk that cannot be written
                os.utime(path, ns=(status.st_atime_ns, expected["mtime_ns"]), follow_symlinks=False)
    except FileNotFoundError:
        return f"{path} is missing, expected {expected['size']} bytes"
    except OSError as error:
        return f"{path} cannot be read ({error.strerror})"
    return None


_damaged: set[tuple[str, int, int]] = set()
"""Damaged files whose size and time look unchanged: (path, mtime_ns, ctime_ns)."""


@lru_cache(maxsize=4096)
def _digest_of(path: str, _mtime_ns: int, _ctime_ns: int) -> str:
    return sha256_of(path)


def verified(path: Path | str) -> Path:
    """The path of an output, after its bytes were compared with the run.json beside it.

    Nothing is compared if there is no run.json, the run is not finished, or an old version wrote
    it.

    Raises:
        UserError: the file is missing, changed or not an output of the run, or run.json is damaged.
    """
    path = Path(path)
    record = path.with_name(RECORD)
    try:
        stage, outputs = _stage_and_outputs(_sealed_bytes(record))
    except FileNotFoundError:
        return path
    except (OSError, ValueError) as error:
        raise UserError(f"{record} is damaged ({error}); {again()}") from error
    if outputs is None:
        return path
    if path.name not in outputs:
        raise UserError(
            f"{path} is not among the outputs listed in {record}: "
            f"{', '.join(outputs) or '(none)'}; move it away"
        )
    if path.is_dir():
        size = outputs[path.name]["size"]
        raise UserError(
            f"{path} is a directory, expected a file of {size} bytes: move it away; then"
            f" {again(stage)}"
        )
    if fault := output_fault(path, outputs[path.name], read=True):
        raise UserError(f"damaged: {fault}; {again(stage)}")
    return path


@lru_cache(maxsize=4)
def _stage_and_outputs(data: bytes) -> tuple[str | None, Outputs | None]:
    """What `verified` needs of a run.json. The files of a directory are read one after the other,
    and its run.json is parsed once for them.
    """
    run = _sealed(data)
    return run.get("stage"), recorded_outputs(run)


def again(stage: str | None = None) -> str:
    """The remedy for damaged outputs: the command that made them."""
    made = MAKERS.get(str(stage), stage)
    command = "the command that made it" if made is None else f"`diffusae {made}`"
    return f"{command} with the same overrides, or `diffusae run`, makes it again and nothing else"
