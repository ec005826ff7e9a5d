"""Reading a collection: verification, then samples through webdataset with our own decoders."""

from __future__ import annotations

import io
import logging
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from webdataset.autodecode import Decoder, DecodingError
from webdataset.tariterators import base_plus_ext, group_by_keys

from diffusae.activations.journal import journal_path, read_journals, size_of
from diffusae.activations.local_copy import COPY_FILE, SOURCE_REMEDY, is_local_copy, open_shard
from diffusae.activations.manifest import MANIFEST, Manifest
from diffusae.activations.npy import npy_array
from diffusae.activations.schema import ATTENTION, IMAGES, Shard, Stream
from diffusae.activations.tar_index import read_members
from diffusae.errors import UserError
from diffusae.files import sha256_of
from diffusae.parsing import json_value, of_type
from diffusae.tensor_files import tensors_of

log = logging.getLogger(__name__)

MOST_PIXELS = 8192 * 8192
"""Limit of a collection's picture: the largest size that a model is configured for."""
HASHING_THREADS = 8
"""Shards that are hashed side by side. One core hashes more slowly than a disk reads."""
REMEDY = (
    "run `diffusae collect` with the same settings: it redoes only the groups of damaged shards"
)


@dataclass(frozen=True)
class Fault:
    """A shard that differs from the manifest; `kind` is missing, size, hash or unreadable."""

    shard: str
    kind: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.shard}: {self.kind}: expected {self.expected}, found {self.found}"


@dataclass(frozen=True)
class Sample:
    """One image at one stream: updates [positions, d_in] (float16 or float32,
    `Manifest.numbers.read`) and its meta: prompt, seed, split and more.

    If positions were left out, `meta["positions"]` lists the position of each row. If tokens of
    `ATTENTION` were left out, `meta["columns"]` lists the token of each column.
    """

    image_id: str
    updates: Float[np.ndarray, "positions d_in"]
    meta: dict[str, Any]


def verify(
    root: Path | str, manifest: Manifest, *, streams: Iterable[str] | None = None, deep: bool = True
) -> list[Fault]:
    """Compare shards with the manifest: existence, size and, with `deep`, hash.

    Args:
        streams: folders of the streams to check (`images` for the pictures). None: all.

    In a local copy, shards that are not fetched yet are no fault.
    """
    wanted = None if streams is None else set(streams)
    shards = [shard for shard in manifest.entries if wanted is None or shard.stream in wanted]
    check = partial(_fault_of, Path(root), copied=is_local_copy(root), deep=deep)
    pool = ThreadPoolExecutor(HASHING_THREADS)
    try:
        return [fault for fault in pool.map(check, shards) if fault is not None]
    finally:
        pool.shutdown(cancel_futures=True)  # a stop does not wait for the other shards


def _fault_of(root: Path, shard: Shard, *, copied: bool, deep: bool) -> Fault | None:
    path = root / shard.path
    size = size_of(path)
    if size is None:  # a local copy checks a shard when it is fetched
        return None if copied else Fault(shard.path, "missing", f"{shard.bytes} bytes", "no file")
    if size != shard.bytes:
        return Fault(shard.path, "size", f"{shard.bytes} bytes", f"{size} bytes")
    if not deep:
        return None
    try:
        digest = sha256_of(path)
    except OSError as error:
        return Fault(shard.path, "unreadable", "a file that can be read", str(error.strerror))
    if digest == shard.sha256:
        return None
    return Fault(shard.path, "hash", f"sha256 {shard.sha256}", f"sha256 {digest}")


def require_sound(
    root: Path | str, manifest: Manifest, *, streams: Iterable[str] | None = None, deep: bool = True
) -> None:
    """`verify`, and raise one `UserError` with all faults and the remedy.

    In a local copy, damaged shards are removed with a warning. Reading fetches them again.
    """
    faults = verify(root, manifest, streams=streams, deep=deep)
    if is_local_copy(root):
        for fault in faults:
            log.warning("the local copy of %s; it is fetched again", fault)
            (Path(root) / fault.shard).unlink()
        return
    if faults:
        lines = "".join(f"\n  {fault}" for fault in faults)
        remedy = SOURCE_REMEDY if (Path(root) / COPY_FILE).exists() else REMEDY
        raise UserError(
            f"{len(faults)} shards of {root} are not what {MANIFEST} says:{lines}\n{remedy}"
        )


def discard_damaged(root: Path | str, faults: Sequence[Fault]) -> list[int]:
    """Mark the groups of damaged shards as unfinished, and return their indices.

    The manifest is removed first, then the groups' journals.
    """
    if not faults:
        return []
    root = Path(root)
    (root / MANIFEST).unlink(missing_ok=True)
    damaged = {fault.shard for fault in faults}
    indices = []
    for index, group in read_journals(root).items():
        if damaged & {shard.path for shard in group.shards}:
            journal_path(root, index).unlink()
            indices.append(index)
    return indices


def read_updates(
    root: Path | str,
    manifest: Manifest,
    stream: Stream,
    split: str,
    *,
    shards: Iterable[Shard] | None = None,
) -> Iterator[Sample]:
    """The samples of one stream and split, shard after shard.

    Args:
        shards: the shards to read, in order. By default all of the split, in group order.

    Raises:
        UserError: a shard is missing or cut, or has a foreign member, a double key or another shape
            than the stream.
    """
    shards = manifest.shards(stream.folder, split) if shards is None else shards
    most = manifest.positions(stream, split)
    for shard, sample in samples_in(Path(root), shards, kinds=("npy", "json")):
        updates = sample["npy"]
        listed = len(sample["json"].get("positions", ())) if manifest.ragged else most
        columns = sample["json"].get("columns") if stream.block == ATTENTION else None
        width = stream.d_in if columns is None else len(columns)
        shape = (listed if 0 < listed <= most else most, width)
        if updates.shape != shape or updates.dtype != manifest.numbers.stored:
            raise UserError(
                f"{shard.path}: sample {sample['__key__']!r} is {updates.dtype} {updates.shape}, "
                f"the manifest's stream {stream.folder} is {manifest.numbers.stored} {shape}; "
                f"shards of different collections are mixed: {REMEDY}"
            )
        _check_listed(shard, sample, "positions", len(updates), most=stream.positions)
        if columns is not None:
            _check_listed(shard, sample, "columns", width, most=stream.d_in)
        yield Sample(sample["__key__"], manifest.numbers.decode(updates), sample["json"])


def _check_listed(
    shard: Shard, sample: dict[str, Any], name: str, count: int, *, most: int
) -> None:
    """`UserError` unless listed positions, or columns, are `count`, ascending and below `most`."""
    if (listed := sample["json"].get(name)) is None:
        return
    ascending = len(listed) == count and listed == sorted(set(listed))
    if not ascending or (listed and not 0 <= listed[0] <= listed[-1] < most):
        raise UserError(
            f"{shard.path}: sample {sample['__key__']!r} must list {count} ascending {name} from "
            f"0 to {most - 1}; {REMEDY}"
        )


def read_images(
    root: Path | str, manifest: Manifest, split: str
) -> Iterator[tuple[str, UInt8[np.ndarray, "height width 3"], dict[str, Any]]]:
    """The pictures of one split as (image id, uint8 [height, width, 3], meta). Raises as
    `read_updates`."""
    shards = manifest.shards(IMAGES, split)
    kinds, size = ("png", "json"), manifest.image_size
    for _, sample in samples_in(Path(root), shards, kinds=kinds, image_size=size):
        yield sample["__key__"], sample["png"], sample["json"]


def load_updates(
    root: Path | str, manifest: Manifest, stream: Stream, split: str
) -> tuple[list[str], Float[np.ndarray, "images positions d_in"]]:
    """All ids and updates of a stream and split, in one array. They must fit in memory.

    Raises:
        UserError: as `read_updates`; or the stream's positions are tokens of a text, or it is
            `ATTENTION`.
    """
    if stream.block == ATTENTION:
        raise UserError(
            f"the samples of {stream.folder} keep the tokens of their own captions and make no"
            " array; read them one by one"
        )
    no_array = UserError(
        f"the samples of {stream.folder} differ in length (one vector per token) and make no array;"
        " read them one by one"
    )
    if manifest.ragged and stream.of_tokens:
        raise no_array
    shards = manifest.shards(stream.folder, split)
    updates = np.empty(
        (sum(shard.samples for shard in shards), manifest.positions(stream, split), stream.d_in),
        dtype=manifest.numbers.read,
    )
    ids = []
    for row, sample in enumerate(read_updates(root, manifest, stream, split, shards=shards)):
        if len(sample.updates) != updates.shape[1]:
            raise no_array
        updates[row] = sample.updates
        ids.append(sample.image_id)
    return ids, updates


def samples_in(
    root: Path,
    shards: Iterable[Shard],
    *,
    kinds: Sequence[str],
    image_size: tuple[int, int] | None = None,
) -> Iterator[tuple[Shard, dict[str, Any]]]:
    """The decoded samples of these shards. Checks that they have exactly the members `kinds`,
    unique keys and pictures of `image_size`."""
    seen: set[str] = set()
    decoder = Decoder([partial(_decode, image_size=image_size)], pre=[], post=[])
    for shard in shards:
        count = 0
        try:
            with open_shard(root, shard) as file:
                members = _only_expected(_members(file, shard), shard=shard, kinds=kinds)
                for sample in map(decoder, group_by_keys(members)):
                    key = sample["__key__"]
                    if key in seen:
                        raise UserError(
                            f"{shard.path}: key {key!r} comes twice or interleaved; {REMEDY}"
                        )
                    if not sample.keys() >= {*kinds}:
                        raise UserError(
                            f"{shard.path}: sample {key!r} lacks its {' or '.join(_named(kinds))}"
                            f" member, or keys are interleaved; {REMEDY}"
                        )
                    seen.add(key)
                    count += 1
                    yield shard, sample
        except FileNotFoundError:
            raise UserError(f"{shard.path} is missing below {root}; {REMEDY}") from None
        except DecodingError as error:
            raise UserError(
                f"{shard.path}: member {error.key}.{error.k} cannot be read ({error.__cause__}); "
                f"{REMEDY}"
            ) from error
        except (tarfile.TarError, EOFError) as error:
            raise UserError(
                f"{shard.path} is cut or damaged ({error.args[0]}); {REMEDY}"
            ) from error
        if count != shard.samples:
            raise UserError(
                f"{shard.path} is cut: it has {count} samples, expected {shard.samples}; {REMEDY}"
            )


def _members(file: BinaryIO, shard: Shard) -> Iterator[dict[str, Any]]:
    """A tar's members in the form of webdataset's tar stage. An empty one marks the end."""
    for name, data in read_members(file):
        yield {"fname": name, "data": data, "__url__": shard.path}
    yield {}


def _only_expected(
    members: Iterable[dict[str, Any]], *, shard: Shard, kinds: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Pass on a tar's members. Refuse those that webdataset would skip, unpickle or mix up."""
    names: set[str] = set()
    for member in members:
        if member:
            name = member["fname"]
            if base_plus_ext(name)[1] not in kinds:
                raise UserError(
                    f"{shard.path}: member {name!r} is refused: only {' and '.join(_named(kinds))}"
                    f" are read, never pickles or anything else; {REMEDY}"
                )
            if name in names:
                raise UserError(f"{shard.path}: member {name!r} comes twice; {REMEDY}")
            names.add(name)
        yield member


def _named(kinds: Sequence[str]) -> list[str]:
    return [f".{kind}" for kind in kinds]


def _decode(extension: str, data: bytes, *, image_size: tuple[int, int] | None) -> Any:
    """The only decoder. (Those of webdataset would run pickles.)"""
    if extension == ".npy":
        return npy_array(data)
    if extension == ".json":
        return meta_of(data)
    if extension == ".safetensors":
        return tensors_of(data)
    assert extension == ".png", extension  # `_only_expected` has refused all else
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        # Both are checked before decoding, since a small file may claim any size.
        if (size := (image.height, image.width)) != image_size:
            raise UserError(
                f"it has size {size}, the manifest says {image_size}; shards of different "
                "collections are mixed"
            )
        if image.width * image.height > MOST_PIXELS:
            raise ValueError(f"{image.width} x {image.height} pixels are more than {MOST_PIXELS}")
        return np.asarray(image.convert("RGB"))


_META = {
    "prompt": str,
    "seed": int,
    "split": str,
    "name": str,
    "labels": dict[str, str],
    "positions": list[int],
    "columns": list[int],
    "word_tokens": dict[str, list[int]],
}
"""Known entries of a sample's meta, all optional. Others are any plain JSON."""


def meta_of(data: bytes) -> dict[str, Any]:
    """A sample's meta from its JSON member; `UserError` where a known entry has another type."""
    meta = of_type(json_value(data), dict, "it")
    return meta | {
        name: of_type(meta[name], kind, name) for name, kind in _META.items() if name in meta
    }
