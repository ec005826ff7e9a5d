"""A tar for webdataset that is hashed while it is written and gets its name when it is whole."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from diffusae.files import atomic_path


class HashedTar:
    """An open shard. `bytes` and `sha256` are final after its `hashed_tar` block.

    Members are as from webdataset's writer, with owner and time fixed, so that equal samples give
    equal bytes. They are written in whole pieces: tarfile, which that writer uses, copies pieces of
    10 kB.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self.bytes = 0

    def add(self, key: str, **members: bytes) -> None:
        """Append one sample: `add("a", npy=..., json=...)` writes `a.json` and `a.npy`."""
        for extension, data in sorted(members.items()):
            info = tarfile.TarInfo(f"{key}.{extension}")
            info.size, info.mode, info.uname, info.gname = len(data), 0o444, "diffusae", "diffusae"
            self._write(info.tobuf(tarfile.PAX_FORMAT))
            self._write(data)
            self._pad(tarfile.BLOCKSIZE)

    def end(self) -> None:
        """Write the tar's end."""
        self._write(bytes(2 * tarfile.BLOCKSIZE))
        self._pad(tarfile.RECORDSIZE)

    def _pad(self, multiple: int) -> None:
        self._write(bytes(-self.bytes % multiple))

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self.bytes += len(data)

    @property
    def sha256(self) -> str:
        """The SHA-256 of the bytes written, as hexadecimal digits."""
        return self._digest.hexdigest()


@contextmanager
def hashed_tar(path: Path) -> Iterator[HashedTar]:
    """Open a tar that becomes `path` if the block succeeds, and leaves nothing if it fails."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        tar = HashedTar(file)
        yield tar
        tar.end()


def png_bytes(image: np.ndarray) -> bytes:
    """A uint8 [height, width, 3] picture as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()
