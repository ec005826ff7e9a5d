"""The local copy of a collection that lies elsewhere: its manifest at once, its shards when they are first read.

A mirror is an ordinary collection's directory with `mirror.json` in it; every reader opens shards by `open_shard`, so batches
and samples are those of the collection itself.
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
import threading
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock

from diffusae.activations.manifest import MANIFEST, Manifest
from diffusae.activations.schema import Shard
from diffusae.activations.transport import Source, digest_of
from diffusae.errors import UserError, together
from diffusae.files import TEMPORARY_SUFFIX, atomic_path, atomic_write_json, sha256_of
from diffusae.parsing import read_json, reading, typed

log = logging.getLogger(__name__)

MIRROR = "mirror.json"
RECORD = "run.json"
"""The collection's own record comes along: what is made from its updates names it as the parent."""

_LOCK = ".mirror.lock"
_SAFE = re.compile(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*")
_EVICTED = 20
"""How often a shard may be taken away by another process between its fetching and its opening."""


@dataclass(frozen=True, kw_only=True)
class Mirror:
    """What `mirror.json` says.

    Args:
        url: of the collection.
        manifest: SHA-256 of its manifest, and so of every shard.
        attempts: see `Source`.
        most_bytes: of shards that are kept; the longest unused go first. None: all are kept.
    """

    url: str
    manifest: str
    attempts: int
    most_bytes: int | None

    @classmethod
    def of(cls, root: Path | str) -> Mirror | None:
        """The mirror in this directory; None where it is a collection that was made here."""
        path, remedy = Path(root) / MIRROR, f"remove {root} and begin anew"
        try:
            value = read_json(path, remedy=remedy)
        except FileNotFoundError:
            return None
        with reading(path, remedy=remedy):
            return typed(cls, value)


def mirror(
    root: Path | str,
    url: str,
    *,
    attempts: int = 3,
    most_bytes: int | None = None,
    manifest_sha256: str | None = None,
) -> Manifest:
    """Make `root` a mirror of the collection at `url`, or find it one already; its manifest.

    A mirror that exists asks nothing of the network, unless its URL is another than before: then both manifests must
    be the same.

    Args:
        manifest_sha256: what the manifest must hash to; None: it is trusted as it comes.

    Raises:
        UserError: `root` holds a collection that was made here or is of another place, or the one at `url` is unfinished,
            is another than `manifest_sha256` says, or names files outside its directory.
    """
    root = Path(root)
    source = Source(url, attempts=attempts)
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / _LOCK):
        found = Mirror.of(root)
        if found is None and (root / MANIFEST).exists():
            raise UserError(
                f"{root} holds a collection that was made here, not a copy of {url}; set activations.source=null, or "
                "choose another name"
            )
        if found is None or found.url != url or not (root / MANIFEST).exists():
            data = source.read(MANIFEST)
            digest = digest_of(data)
            if found is not None and (root / MANIFEST).exists() and found.manifest != digest:
                raise UserError(
                    f"{root} is a copy of {found.url}, and {url} holds another collection; choose another name, or "
                    f"remove {root}"
                )
            _require(digest, manifest_sha256, url)
            _place(
                root, data, source, Mirror(url=url, manifest=digest, attempts=attempts, most_bytes=most_bytes)
            )
        else:
            digest = found.manifest
            if (here := sha256_of(root / MANIFEST)) != digest:
                raise UserError(
                    f"{root / MANIFEST} is damaged: SHA-256 is {here}, expected {digest}; remove it"
                )
            _require(digest, manifest_sha256, url)
        wanted = Mirror(url=url, manifest=digest, attempts=attempts, most_bytes=most_bytes)
        manifest = Manifest.load(root)
        largest = max((shard.bytes for shard in manifest.entries), default=0)
        if most_bytes is not None and most_bytes < largest:
            raise UserError(
                f"activations.cache_bytes={most_bytes} cannot hold the largest shard of {largest} bytes; raise it"
            )
        if wanted != found:
            atomic_write_json(root / MIRROR, asdict(wanted))
        return manifest


def open_shard(root: Path | str, shard: Shard) -> BinaryIO:
    """A shard for reading; in a mirror it is fetched first where it is not here, and checked against its hash.

    Raises:
        FileNotFoundError: it is missing, and this is no mirror.
        UserError: it cannot be had.
    """
    root = Path(root)
    here = Mirror.of(root)
    path = root / shard.path
    if here is None:
        return open(path, "rb")
    for _ in range(_EVICTED):
        if not path.exists():
            _fetch(root, here, shard)
        try:
            file = open(path, "rb")  # noqa: SIM115  (the caller closes it)
        except FileNotFoundError:  # another process needed the room
            continue
        if here.most_bytes is not None:
            now = time.time_ns()  # finer than what the kernel would write by itself
            os.utime(path, ns=(now, now))  # it is in use: the last to go
        return file
    raise UserError(
        f"{shard.path} is taken away as soon as it is fetched; raise activations.cache_bytes={here.most_bytes}"
    )


def fetch_ahead(root: Path | str, shard: Shard) -> None:
    """In a mirror, begin to fetch a shard that will be read soon. What goes wrong is told when it is read."""
    root = Path(root)
    here = Mirror.of(root)
    if here is None or (root / shard.path).exists():
        return
    if here.most_bytes is not None and here.most_bytes < 2 * shard.bytes:  # the one that is read now would go
        return

    def fetch() -> None:
        try:
            _fetch(root, here, shard)
        except Exception as error:
            log.info("%s is not fetched ahead: %s", shard.path, error)

    threading.Thread(target=fetch, name=f"fetch {shard.path}", daemon=True).start()


def _fetch(root: Path, here: Mirror, shard: Shard) -> None:
    path = root / shard.path
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        if path.exists():  # another process was faster
            return
        log.info("fetching %s (%.1f MB)", shard.path, shard.bytes / 1e6)
        source = Source(here.url, attempts=here.attempts)
        source.fetch(shard.path, path, size=shard.bytes, sha256=shard.sha256)
    if here.most_bytes is not None:
        with FileLock(root / _LOCK):
            _make_room(root, here.most_bytes, keep=path)


def _make_room(root: Path, most_bytes: int, *, keep: Path) -> None:
    """Remove the longest unused shards until the others fit. Who reads one goes on: its file is open."""
    found = []
    for shard in Manifest.load(root).entries:
        try:
            stat = (root / shard.path).stat()
        except FileNotFoundError:
            continue
        found.append((stat.st_mtime_ns, stat.st_size, root / shard.path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= most_bytes:
            return
        if path != keep:
            path.unlink(missing_ok=True)
            total -= size


def _place(root: Path, data: bytes, source: Source, said: Mirror) -> None:
    """Put the files in place, the manifest last, once all that it names is seen to lie below `root`."""
    with tempfile.TemporaryDirectory(dir=root, suffix=TEMPORARY_SUFFIX) as folder:
        (Path(folder) / MANIFEST).write_bytes(data)
        manifest = Manifest.load(folder)
    together(_faults(manifest.entries, source.url))
    record = source.read(RECORD)
    atomic_write_json(root / MIRROR, asdict(said))
    for name, content in ((RECORD, record), (MANIFEST, data)):
        with atomic_path(root / name) as temporary:
            temporary.write_bytes(content)


def _faults(shards: Iterable[Shard], url: str) -> list[str]:
    """A manifest from elsewhere may say anything: no path of it may lead out of the directory, or into a command."""
    paths = [shard.path for shard in shards]
    bad = [
        path
        for path in paths
        if not _SAFE.fullmatch(path) or ".." in path.split("/") or not path.endswith(".tar")
    ]
    faults = [f"{url}: the manifest names {path!r}, which is no shard's place; do not use it" for path in bad]
    if len(set(paths)) != len(paths):
        faults.append(f"{url}: the manifest names a shard twice; do not use it")
    return faults


def _require(digest: str, expected: str | None, url: str) -> None:
    if expected is not None and digest != expected:
        raise UserError(
            f"the manifest at {url} has SHA-256 {digest}, activations.source_sha256 is {expected}; it is another "
            "collection, or the value is mistyped"
        )
