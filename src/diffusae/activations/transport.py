"""Files of a collection that lies elsewhere: any URL that fsspec opens, or a command whose output
is the file."""

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
"""Seconds before the second attempt; twice as many before each further one."""

MOST_READ = 512 << 20
"""Bytes of a file that is read whole into memory: a manifest of two million shards has as many."""

_PIECE = 8 << 20


@dataclass(frozen=True)
class Source:
    """Where a collection lies.

    Args:
        url: `s3://bucket/dir`, `hf://datasets/owner/name/dir`, `https://host/dir`, `file:///dir` or
            another that fsspec knows; or `pipe:COMMAND`, a shell command that writes one file.
            `{path}` in it stands for a file's place below the collection (quoted in a command,
            which needs it); without it the place is put behind the URL.
        attempts: how often a file is asked for before it is given up; what came before a cut is
            kept.

    Credentials are those of the environment (AWS_..., HF_TOKEN, fsspec's own configuration), never
    of the URL.

    Raises:
        UserError: a command without `{path}`, no attempts, a scheme that nothing installed can
            open, a user's name or token in the URL.
    """

    url: str
    attempts: int = 3

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise UserError(f"activations.fetch_attempts={self.attempts} must be at least 1")
        if self.url.startswith(PIPE):
            if PLACE not in self.url:
                raise UserError(
                    f"activations.source={self.shown} must hold {PLACE} where the file's place"
                    f" goes, such as 'pipe:ssh host cat /data/{PLACE}'"
                )
            return
        if has_userinfo(self.url):
            raise UserError(
                f"activations.source={self.shown} holds a user's name or token, which is refused;"
                " take it out and give it by the environment: HF_TOKEN, AWS_...,"
                " FSSPEC_<PROTOCOL>_<NAME> (docs/remote.md)"
            )
        _filesystem(self.url)

    @property
    def shown(self) -> str:
        """The URL as messages and files have it: without secrets, and of a command nothing but that
        it is one."""
        return masked_value(self.url)

    def read(self, path: str) -> bytes:
        """A small file, whole. Raises as `fetch` does, and `UserError` where it is larger than
        `MOST_READ`."""
        return _attempted(self, path, lambda: self._read_once(path))

    def _read_once(self, path: str) -> bytes:
        data = bytearray()
        for piece in self._pieces(path):
            data += piece
            if len(data) > MOST_READ:
                raise UserError(
                    f"{path} from {self.shown} has more than {MOST_READ} bytes; it is no such file:"
                    " do not use it"
                )
        return bytes(data)

    def fetch(self, path: str, target: Path, *, size: int, sha256: str) -> None:
        """Write one file to `target`, which appears only whole and with this hash.

        What a cut connection or a kill leaves is a temporary file, and the next attempt asks for
        the rest alone, where the server can do that.

        Raises:
            UserError: there is no such file, it cannot be had, it has another hash, or it is larger
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
        found = partial.stat().st_size
        if found < size:
            raise ConnectionError(f"cut after {found} of {size} bytes")
        digest = sha256_of(partial) if found == size else f"of more than the expected {size} bytes"
        if digest != sha256:
            partial.unlink()  # nothing of it can be trusted
            raise _OtherContents(f"expected sha256 {sha256}, found {digest}")

    def _from(self, path: str, begun: int) -> Iterator[tuple[int, bytes]]:
        """Pieces with the place at which each begins: from byte `begun` on, or from the start where
        it must be."""
        if begun:
            try:
                yield from _numbered(self._pieces(path, begun), begun)
                return
            except _NoResume:
                log.info(
                    "%s of %s is fetched from the start: it cannot be continued", path, self.shown
                )
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
            except OSError as error:  # it repeats the command, which may hold a secret
                raise OSError(_without_command(error)) from None
            return
        url = (
            self.url.replace(PLACE, path) if PLACE in self.url else f"{self.url.rstrip('/')}/{path}"
        )
        filesystem, place = _filesystem(url)
        over_http = "http" in (filesystem.protocol, *filesystem.protocol)
        # From the start HTTP gives the file as one stream, whatever the server; later parts need
        # ranges.
        with filesystem.open(
            place, "rb", **({"block_size": 0} if over_http and not begun else {})
        ) as file:
            yield file


class _NoResume(Exception):
    """The server gives files from their start only."""


class _OtherContents(Exception):
    """The file is whole, and not the one that the manifest means."""


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
            f"activations.source={masked(url)} cannot be opened: {masked(str(error))}; `pip install"
            " 'diffusae[remote]'` has what s3:// and gs:// need"
        ) from error
    except ValueError as error:  # an unknown scheme
        raise UserError(
            f"activations.source={masked(url)} cannot be opened: {masked(str(error))}; give s3://,"
            " hf://, https://, file:// or pipe:"
        ) from error


def _attempted(source: Source, path: str, ask: Any) -> Any:
    fault: Exception = AssertionError("no attempt")
    for attempt in range(1, source.attempts + 1):
        try:
            return ask()
        except FileNotFoundError as error:
            if not _hides_another(error.__cause__):
                raise UserError(
                    f"{path} is not to be found at {source.shown}; see whether that is the"
                    " collection's directory, and whole"
                ) from error
            fault = error.__cause__  # type: ignore[assignment]
        except _OtherContents as error:
            fault = error
        except UserError:
            raise
        except Exception as error:  # every file system raises its own kinds
            fault = error
        if attempt < source.attempts:
            log.warning(
                "%s from %s: %s; attempt %d of %d follows",
                path,
                source.shown,
                _told(fault),
                attempt + 1,
                source.attempts,
            )
            time.sleep(PAUSE_S * 2 ** (attempt - 1))
    if isinstance(fault, _OtherContents):
        raise UserError(
            f"{path} from {source.shown} is not what the manifest says: {fault}; the collection"
            " there is damaged or has changed: mend it there, or remove the local copy's directory"
            " and begin anew"
        ) from fault
    raise UserError(
        f"{path} cannot be had from {source.shown} ({_told(fault)}, {source.attempts} attempts);"
        " the same command goes on when it can be reached, or copy the collection and set"
        " paths.activations to it"
    ) from fault


def _hides_another(cause: BaseException | None) -> bool:
    """Whether "not found" stands for something else: fsspec says it over HTTP whatever went
    wrong."""
    over_http = type(cause).__module__.partition(".")[0] == "aiohttp"
    return isinstance(cause, OSError) or (
        over_http and getattr(cause, "status", None) not in (404, 410)
    )


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {masked(str(error))}" if str(error) else type(error).__name__


def _without_command(error: OSError) -> str:
    """What webdataset says of a command that failed, without the command: "exit 3"."""
    found = re.search(r"(exit -?\d+) \(read\)", str(error))
    return (
        "the command of activations.source failed"
        f" ({found[1] if found else error.strerror or 'no exit code'})"
    )
