"""Tars, made on the spot."""

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path


def tar_of(members: Iterable[tuple[str, bytes]], format: int = tarfile.DEFAULT_FORMAT) -> bytes:
    """A tar of these members: (name, contents)."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=format) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    path.write_bytes(tar_of(members))
    return path
