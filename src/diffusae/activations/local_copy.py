"""The local copy of a remote collection. Shards are fetched when they are first read.

A local copy is a collection's directory with `mirror.json` in it. All readers open shards by
`open_shard`, so they give the samples and batches of the collection itself.

`mirror.json` is never obeyed, since a directory may come from anyone. Files are fetched into or
removed from a directory only if this process' own user gave the URL (`keep_copy`).
"""

from __future__ import annotations

import logging
import os
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock

from diffusae.activations.manifest import MANIFEST, Manifest
from diffusae.activations.places import require_inside
from diffusae.activations.schema import GROUPS, Shard
from diffusae.activations.transport import Source
from diffusae.errors import UserError
from diffusae.files import TEMPORARY_SUFFIX, atomic_path, atomic_write_json, digest_of, sha256_of
from diffusae.masking import masked
from diffusae.parsing import read_json, reading, typed

log = logging.getLogger(__name__)

COPY_FILE = "mirror.json"
RECORD = "run.json"
"""The collection's own record is copied too, since later runs name it as their parent."""

_LOCK = ".mirror.lock"
SOURCE_REMEDY = (
    f"it is a copy of a remote collection ({COPY_FILE}), and nothing is fetched unless the command "
    "gives the source: set activations.source"
)
_EVICTED = 20
"""Attempts to open a fetched shard, since another process may remove it to make room."""


@dataclass(frozen=True, kw_only=True)
class LocalCopy:
    """The contents of `mirror.json`.

    Args:
        url: the collection's URL, without secrets.
        manifest: SHA-256 of its manifest, which fixes every shard.
        attempts: see `Source`.
        most_bytes: limit of all kept shards; the longest unused are removed first. None: no limit.
        url_sha256: SHA-256 of the whole URL, for comparison. None: an older file, with a whole
            `url`.
        record: SHA-256 of the fetched run.json of the collection. None: an older file.
    """

    url: str
    manifest: str
    attempts: int
    most_bytes: int | None
    url_sha256: str | None = None
    record: str | None = None

    @classmethod
    def of(cls, root: Path | str) -> LocalCopy | None:
        """The `mirror.json` in this directory; None if there is none."""
        path, remedy = Path(root) / COPY_FILE, f"remove {root} and begin anew"
        try:
            value = read_json(path, remedy=remedy)
        except FileNotFoundError:
            return None
        with reading(path, remedy=remedy):
            return typed(cls, value)

    def is_of(self, source: Source) -> bool:
        """Whether it is a copy of the collection at that URL."""
        if self.url_sha256 is None:
            return self.url == source.url
        return self.url_sha256 == digest_of(source.url.encode())


@dataclass(frozen=True)
class _Copy:
    """A local copy whose source this process' own user has given."""

    source: Source
    most_bytes: int | None


_copies: dict[Path, _Copy] = {}
"""Directories that this process may fetch into and remove from. Only `keep_copy` fills it."""


class Copies:
    """Carries the known local copies to a new process, with the data that is sent there."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _take_along, (dict(_copies),)


def _take_along(copies: Mapping[Path, _Copy]) -> Copies:
    _copies.update(copies)
    return Copies()


def is_local_copy(root: Path | str) -> bool:
    """Whether this process may fetch into the directory."""
    return _copy(root) is not None


def forget(root: Path | str) -> None:
    """Treat the directory as an ordinary collection: the user gives no source (any more)."""
    _copies.pop(Path(root).resolve(), None)


def _copy(root: Path | str) -> _Copy | None:
    return _copies.get(Path(root).resolve())


def keep_copy(
    root: Path | str,
    url: str,
    *,
    attempts: int = 3,
    most_bytes: int | None = None,
    manifest_sha256: str | None = None,
) -> Manifest:
    """Make `root` a local copy of the collection at `url`, unless it is one already; return the
    manifest.

    An existing copy needs no network, unless its URL has changed. Then both manifests must be
    equal.

    Args:
        manifest_sha256: the expected SHA-256 of the manifest. None: it is not checked.

    Raises:
        UserError: `root` holds a collection made here or a copy of another one, or the collection
            at `url` is unfinished, differs from `manifest_sha256`, or names files outside of it.
    """
    root = Path(root)
    source = Source(url, attempts=attempts)
    root.mkdir(parents=True, exist_ok=True)
    require_inside(root)
    with FileLock(root / _LOCK):
        known = _known(root)
        if known is None or not known.is_of(source) or not (root / MANIFEST).exists():
            _require_copy(root, known, source)
            data = source.read(MANIFEST)
            digest = digest_of(data)
            _require_same(root, known, digest, source)
            _require(digest, manifest_sha256, source.shown)
            known = _place(root, data, source, most_bytes)
        elif (digest := sha256_of(root / MANIFEST)) != known.manifest:
            raise UserError(
                f"{root / MANIFEST} is damaged: SHA-256 is {digest}, expected {known.manifest};"
                " remove it"
            )
        else:
            _require(digest, manifest_sha256, source.shown)
        wanted = _described(source, digest, most_bytes, record=_keep_record(root, known, source))
        manifest = Manifest.load(root)
        largest = max((shard.bytes for shard in manifest.entries), default=0)
        if most_bytes is not None and most_bytes < largest:
            raise UserError(
                f"activations.cache_bytes={most_bytes} cannot hold the largest shard of {largest} "
                "bytes; raise it"
            )
        if wanted != known:
            atomic_write_json(root / COPY_FILE, asdict(wanted))
        _copies[root.resolve()] = _Copy(source, most_bytes)
        return manifest


def _known(root: Path) -> LocalCopy | None:
    """What `mirror.json` says; None where it is missing or damaged: the source then says what
    belongs here.

    Raises:
        UserError: something that is no file is in its place.
    """
    if (root / COPY_FILE).exists() and not (root / COPY_FILE).is_file():
        raise UserError(
            f"{root / COPY_FILE} is no file; remove it, and the same command writes it again"
        )
    try:
        return LocalCopy.of(root)
    except UserError as error:
        log.warning("%s; it is written again", error)
        return None


def _require_copy(root: Path, known: LocalCopy | None, source: Source) -> None:
    """Raise `UserError` where the collection was made here: only such a one has journals of its
    groups."""
    if known is None and (root / MANIFEST).exists() and (root / GROUPS).exists():
        raise UserError(
            f"{root} holds a collection that was made here, not a copy of {source.shown}; set"
            " activations.source=null, or choose another name"
        )


def _require_same(root: Path, known: LocalCopy | None, digest: str, source: Source) -> None:
    """Raise `UserError` where the manifest that is here is not the one at the source."""
    if (root / MANIFEST).exists() and sha256_of(root / MANIFEST) != digest:
        is_of = "is of an unknown source" if known is None else f"is a copy of {masked(known.url)}"
        raise UserError(
            f"{root} {is_of}, and {source.shown} holds another collection; choose another name, or"
            f" remove {root}"
        )


def _keep_record(root: Path, known: LocalCopy, source: Source) -> str:
    """SHA-256 of the collection's run.json, which is fetched again where it is missing or not as it
    was fetched.

    Raises:
        UserError: something that is no file is in its place; the source cannot be read.
    """
    path = root / RECORD
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is no file; remove it, and the same command fetches it again")
    here = sha256_of(path) if path.exists() else None
    if here is not None and known.record in (None, here):
        return here
    log.warning("%s is %s; it is fetched again", path, "missing" if here is None else "damaged")
    return _fetch_record(root, source)


def _fetch_record(root: Path, source: Source) -> str:
    data = source.read(RECORD)
    with atomic_path(root / RECORD) as temporary:
        temporary.write_bytes(data)
    return digest_of(data)


def _described(source: Source, digest: str, most_bytes: int | None, *, record: str) -> LocalCopy:
    return LocalCopy(
        url=source.shown,
        manifest=digest,
        attempts=source.attempts,
        most_bytes=most_bytes,
        url_sha256=digest_of(source.url.encode()),
        record=record,
    )


def open_shard(root: Path | str, shard: Shard) -> BinaryIO:
    """Open a shard for reading. In a local copy, a missing shard is fetched and its hash is
    checked.

    Raises:
        FileNotFoundError: the shard is missing, and `root` is no local copy.
        UserError: the shard cannot be fetched, or is missing in a local copy without a given
        source.
    """
    root = Path(root)
    copy = _copy(root)
    path = root / shard.path
    if copy is None:
        try:
            return open(path, "rb")
        except FileNotFoundError as error:
            if (root / COPY_FILE).exists():
                raise UserError(f"{shard.path} is not in {root}; {SOURCE_REMEDY}") from error
            raise
    for _ in range(_EVICTED):
        if not path.exists():
            _fetch(root, copy, shard)
        try:
            file = open(path, "rb")  # noqa: SIM115  (the caller closes it)
        except FileNotFoundError:  # another process needed the room
            continue
        if copy.most_bytes is not None:
            now = time.time_ns()  # finer than the kernel's own time
            os.utime(path, ns=(now, now))  # the latest used is removed last
        return file
    raise UserError(
        f"{shard.path} is removed as soon as it is fetched; raise "
        f"activations.cache_bytes={copy.most_bytes}"
    )


def fetch_ahead(root: Path | str, shard: Shard) -> None:
    """In a local copy, begin to fetch a shard that will be read soon. Reading it will report
    faults.
    """
    root = Path(root)
    copy = _copy(root)
    if copy is None or (root / shard.path).exists():
        return
    # Without room for two, it would push out the shard that is read now
    if copy.most_bytes is not None and copy.most_bytes < 2 * shard.bytes:
        return

    def fetch() -> None:
        try:
            _fetch(root, copy, shard)
        except Exception as error:
            log.info("%s is not fetched ahead: %s", shard.path, error)

    threading.Thread(target=fetch, name=f"fetch {shard.path}", daemon=True).start()


def _fetch(root: Path, copy: _Copy, shard: Shard) -> None:
    path = root / shard.path
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        if path.exists():  # another process was faster
            return
        log.info("fetching %s (%.1f MB)", shard.path, shard.bytes / 1e6)
        copy.source.fetch(shard.path, path, size=shard.bytes, sha256=shard.sha256)
    if copy.most_bytes is not None:
        with FileLock(root / _LOCK):
            _make_room(root, copy.most_bytes, keep=path)


def _make_room(root: Path, most_bytes: int, *, keep: Path) -> None:
    """Remove the longest unused shards until the others fit. Open files can still be read."""
    kept = []
    for shard in Manifest.load(root).entries:
        try:
            stat = (root / shard.path).stat()
        except FileNotFoundError:
            continue
        kept.append((stat.st_mtime_ns, stat.st_size, root / shard.path))
    total = sum(size for _, size, _ in kept)
    for _, size, path in sorted(kept):
        if total <= most_bytes:
            return
        if path != keep:
            path.unlink(missing_ok=True)
            total -= size


def _place(root: Path, data: bytes, source: Source, most_bytes: int | None) -> LocalCopy:
    """Put the files in place, the manifest last, once all that it names is seen to lie below
    `root`."""
    with tempfile.TemporaryDirectory(dir=root, suffix=TEMPORARY_SUFFIX) as folder:
        (Path(folder) / MANIFEST).write_bytes(data)
        Manifest.load(folder)
    record = _fetch_record(root, source)
    placed = _described(source, digest_of(data), most_bytes, record=record)
    atomic_write_json(root / COPY_FILE, asdict(placed))
    with atomic_path(root / MANIFEST) as temporary:
        temporary.write_bytes(data)
    return placed


def _require(digest: str, expected: str | None, url: str) -> None:
    if expected is not None and digest != expected:
        raise UserError(
            f"the manifest at {url} has SHA-256 {digest}, activations.source_sha256 is {expected}; "
            "it is another collection, or the value is mistyped"
        )
