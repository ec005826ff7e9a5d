"""Files of a remote collection, from a URL that fsspec opens or from a command's output."""

from __future__ import annotations

import logging
import os
import re
import shlex
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusae.errors import UserError
from diffusae.files import TEMPORARY_SUFFIX, sha256_of
from diffusae.masking import PIPE, has_userinfo, masked, masked_value

log = logging.getLogger(__name__)

PLACE = "{path}"
PAUSE_S = 1.0
"""Seconds before the second attempt. They double with every further attempt."""

MOST_READ = 512 << 20
"""Limit of a file that is read into memory. A manifest of two million shards is as large."""

_PIECE = 8 << 20


@dataclass(frozen=True)
class Source:
    """The place of a remote collection.

    Args:
        url: `s3://bucket/dir`, `hf://datasets/owner/name/dir`, `https://host/dir`, `file:///dir` or
            another URL that fsspec knows; or `pipe:COMMAND`, a shell command that prints one file.
            `{path}` in it is replaced by a file's path below the collection (quoted in a command,
            which must have it). Without `{path}`, the path is appended to the URL.
        attempts: requests for a file before giving up. Bytes that came before a cut are kept.

    Credentials come from the environment (AWS_..., HF_TOKEN, fsspec's own configuration), never
    from the URL.

    Raises:
        UserError: a command lacks `{path}`, `attempts` is below 1, no installed package can open
            the URL's scheme, or the URL has a user name or token.
    """

    url: str
    attempts: int = 3

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise UserError(f"activations.fetch_attempts={self.attempts} must be at least 1")
        if self.url.startswith(PIPE):
            if PLACE not in self.url:
                raise UserError(
                    f"activations.source={self.shown} must hold {PLACE} where the file's path "
                    f"goes, such as 'pipe:ssh host cat /data/{PLACE}'"
                )
            return
        if has_userinfo(self.url):
            raise UserError(
                f"activations.source={self.shown} holds a user's name or token, which is refused; "
                "take it out and give it by the environment: HF_TOKEN, AWS_..., "
                "FSSPEC_<PROTOCOL>_<NAME> (docs/remote.md)"
            )
        _filesystem(self.url)

    @property
    def shown(self) -> str:
        """The URL for messages and files: without secrets; a command is masked as a whole."""
        return masked_value(self.url)

    def read(self, path: str) -> bytes:
        """The bytes of a small file. Raises as `fetch`, and `UserError` if it is above
        `MOST_READ`."""
        return _attempted(self, path, lambda: self._read_once(path))

    def _read_once(self, path: str) -> bytes:
        data = bytearray()
        for piece in self._pieces(path):
            data += piece
            if len(data) > MOST_READ:
                raise UserError(
                    f"{path} from {self.shown} has more than {MOST_READ} bytes, so it is another "
                    "file; do not use it"
                )
        return bytes(data)

    def fetch(self, path: str, target: Path, *, size: int, sha256: str) -> None:
        """Write one file to `target`, which appears only whole and with this hash.

        A cut connection or a kill leaves a temporary file. The next attempt requests only the rest
        if the server supports that.

        Raises:
            UserError: the file does not exist, cannot be fetched, has another hash, or is larger
                than the free disk.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        if size > (free := shutil.disk_usage(target.parent).free):
            raise UserError(
                f"{path} has {size} bytes, {free} are free at {target.parent}; free some space"
            )
        partial = target.with_name(f"{target.name}.{sha256[:16]}{TEMPORARY_SUFFIX}")
        _attempted(self, path, lambda: self._fetch_once(path, partial, size, sha256))
        os.replace(partial, target)

    def _fetch_once(self, path: str, partial: Path, size: int, sha256: str) -> None:
        begun = partial.stat().st_size if partial.exists() else 0
        if begun < size:
            with open(partial, "ab") as file:
                for start, piece in self._from(path, begun):
                    if start == 0:
                        file.truncate(0)
                    file.write(piece)
                    if start + len(piece) > size:
                        break
                file.flush()
                os.fsync(file.fileno())
        length = partial.stat().st_size
        if length < size:
            raise ConnectionError(f"cut after {length} of {size} bytes")
        digest = sha256_of(partial) if length == size else f"of more than the expected {size} bytes"
        if digest != sha256:
            partial.unlink()  # no part of it can be trusted
            raise _OtherContents(f"expected sha256 {sha256}, found {digest}")

    def _from(self, path: str, begun: int) -> Iterator[tuple[int, bytes]]:
        """(first byte, piece) from byte `begun` on, or from the start if the server cannot
        resume."""
        if begun:
            try:
                yield from _numbered(self._pieces(path, begun), begun)
                return
            except _NoResume:
                log.info("%s of %s cannot be resumed: fetching it all", path, self.shown)
        yield from _numbered(self._pieces(path), 0)

    def _pieces(self, path: str, begun: int = 0) -> Iterator[bytes]:
        with self._opened(path, begun) as file:
            try:
                if begun:
                    file.seek(begun)
                piece = file.read(_PIECE)
            except (ValueError, NotImplementedError) as error:
                raise (_NoResume if begun else error) from error
            while piece:
                yield piece
                piece = file.read(_PIECE)

    @contextmanager
    def _opened(self, path: str, begun: int) -> Iterator[Any]:
        if self.url.startswith(PIPE):
            from webdataset.gopen import gopen

            if begun:
                raise _NoResume
            try:
                with gopen(self.url.replace(PLACE, shlex.quote(path))) as file:
                    yield file
            except OSError as error:  # its message has the command, which may hold a secret
                raise OSError(_without_command(error)) from None
            return
        url = (
            self.url.replace(PLACE, path) if PLACE in self.url else f"{self.url.rstrip('/')}/{path}"
        )
        filesystem, place = _filesystem(url)
        over_http = "http" in (filesystem.protocol, *filesystem.protocol)
        # block_size=0 reads HTTP as one stream, which any server can do. Later parts need ranges.
        options = {"block_size": 0} if over_http and not begun else {}
        with filesystem.open(place, "rb", **options) as file:
            yield file


class _NoResume(Exception):
    """The server cannot give a file from a later byte on."""


class _OtherContents(Exception):
    """The file is whole, but differs from the manifest."""


def _numbered(pieces: Iterator[bytes], start: int) -> Iterator[tuple[int, bytes]]:
    for piece in pieces:
        yield start, piece
        start += len(piece)


def _filesystem(url: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    try:
        return url_to_fs(url)
    except ImportError as error:
        raise UserError(
            f"activations.source={masked(url)} cannot be opened: {masked(str(error))}; s3:// and "
            "gs:// need `pip install 'diffusae[remote]'`"
        ) from error
    except ValueError as error:  # an unknown scheme
        raise UserError(
            f"activations.source={masked(url)} cannot be opened: {masked(str(error))}; give s3://, "
            "hf://, https://, file:// or pipe:"
        ) from error


def _attempted(source: Source, path: str, ask: Any) -> Any:
    fault: Exception = AssertionError("no attempt")
    for attempt in range(1, source.attempts + 1):
        try:
            return ask()
        except FileNotFoundError as error:
            if not _hides_another(error.__cause__):
                raise UserError(
                    f"{path} is not found at {source.shown}; check that this is the collection's "
                    "directory and that it is complete"
                ) from error
            fault = error.__cause__  # type: ignore[assignment]
        except _OtherContents as error:
            fault = error
        except UserError:
            raise
        except Exception as error:  # file systems raise errors of any kind
            fault = error
        if attempt < source.attempts:
            log.warning(
                "%s from %s: %s; attempt %d of %d follows",
                path,
                source.shown,
                _in_words(fault),
                attempt + 1,
                source.attempts,
            )
            time.sleep(PAUSE_S * 2 ** (attempt - 1))
    if isinstance(fault, _OtherContents):
        raise UserError(
            f"{path} from {source.shown} is not what the manifest says: {fault}; the remote "
            "collection is damaged or has changed: repair it, or remove the local copy's directory "
            "and begin anew"
        ) from fault
    raise UserError(
        f"{path} cannot be fetched from {source.shown} ({_in_words(fault)}, {source.attempts} "
        "attempts); run the same command again when it can be reached, or copy the collection and "
        "set paths.activations to the copy"
    ) from fault


def _hides_another(cause: BaseException | None) -> bool:
    """Whether "not found" hides another fault: over HTTP, fsspec raises it for any fault."""
    over_http = type(cause).__module__.partition(".")[0] == "aiohttp"
    return isinstance(cause, OSError) or (
        over_http and getattr(cause, "status", None) not in (404, 410)
    )


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {masked(str(error))}" if str(error) else type(error).__name__


def _without_command(error: OSError) -> str:
    """The fault of a failed command, such as "exit 3", without the command itself."""
    match = re.search(r"(exit -?\d+) \(read\)", str(error))
    reason = match[1] if match else error.strerror or "no exit code"
    return f"the command of activations.source failed ({reason})"
