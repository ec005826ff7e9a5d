"""A tar written through webdataset that is hashed as it is written and gets its name only when whole."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from PIL import Image
from webdataset.writer import TarWriter

from diffusae.files import atomic_path


class _HashedFile:
    """Passes bytes on to a file and keeps their SHA-256 and number, which spares reading them again."""

    def __init__(self, file: BinaryIO) -> None:
        self.file: BinaryIO | None = file
        self.digest = hashlib.sha256()
        self.bytes = 0

    def write(self, data: bytes) -> int:
        if self.file is None:
            return len(data)
        self.file.write(data)
        self.digest.update(data)
        self.bytes += len(data)
        return len(data)


class HashedTar:
    """An open shard; `bytes` and `sha256` are final once its `hashed_tar` block has ended."""

    def __init__(self, file: BinaryIO) -> None:
        self._sink = _HashedFile(file)
        # A fixed owner and time, so that equal samples give equal bytes. TarWriter only writes.
        self._tar = TarWriter(
            cast(BinaryIO, self._sink), encoder=False, mtime=0.0, user="diffusae", group="diffusae"
        )

    def add(self, key: str, **members: bytes) -> None:
        """Append one sample: `add("a", npy=..., json=...)` writes `a.json` and `a.npy`."""
        self._tar.write({"__key__": key, **members})

    def close(self) -> None:
        """Write the tar's end."""
        self._tar.close()

    def abandon(self) -> None:
        """Close without writing; left to its finaliser, tarfile would write its end to a closed file."""
        self._sink.file = None
        self._tar.close()

    @property
    def bytes(self) -> int:
        """Bytes written."""
        return self._sink.bytes

    @property
    def sha256(self) -> str:
        """The SHA-256 of the bytes written, as hexadecimal digits."""
        return self._sink.digest.hexdigest()


@contextmanager
def hashed_tar(path: Path) -> Iterator[HashedTar]:
    """Open a tar that appears as `path` when the block ends well, and leaves nothing when it fails."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        tar = HashedTar(file)
        try:
            yield tar
            tar.close()
        except BaseException:
            tar.abandon()
            raise


def npy_bytes(array: np.ndarray) -> bytes:
    """The array as an .npy file, without pickle."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def png_bytes(image: np.ndarray) -> bytes:
    """A uint8 [height, width, 3] picture as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()
