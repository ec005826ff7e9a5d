"""One picture of a collection is found without reading the shards of the others."""

from pathlib import Path

import numpy as np
import pytest

from diffusae.activations import one_picture
from diffusae.activations.manifest import Manifest
from diffusae.activations.one_picture import OnePicture
from diffusae.activations.reader import read_updates
from diffusae.errors import UserError
from small_collections import stream_of, write_random

STREAMS = [stream_of((2, 3), 4), stream_of((1, 2), 3, block="up")]
GROUPS = [("train", 2), ("dictionary", 3), ("test", 2), ("test", 3)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_random(tmp_path, STREAMS, GROUPS)


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The shards whose bytes were read as a whole."""
    read: list[str] = []
    whole = one_picture.sha256_of
    monkeypatch.setattr(
        one_picture, "sha256_of", lambda path: (read.append(Path(path).name), whole(path))[1]
    )
    return read


def test_a_picture_has_the_updates_that_are_read_in_order(root):
    manifest = Manifest.load(root)
    pictures = OnePicture(root, manifest)
    for stream in STREAMS:
        for split in ("dictionary", "test"):
            for sample in read_updates(root, manifest, stream, split):
                updates = pictures.updates(stream, sample.image_id)
                assert updates is not None and updates.dtype == sample.updates.dtype
                assert np.array_equal(updates, sample.updates)


def test_a_picture_that_was_found_is_found_in_another_stream_by_reading_its_shard_alone(
    root, hashed
):
    pictures = OnePicture(root, Manifest.load(root))
    assert pictures.updates(STREAMS[0], "g2i1") is not None
    assert hashed == ["shard-000002.tar"]  # where it lies
    hashed.clear()
    assert pictures.updates(STREAMS[1], "g2i0") is not None
    assert pictures.updates(STREAMS[1], "g2i1") is not None
    assert hashed == ["shard-000002.tar"]


def test_pictures_of_other_splits_and_unknown_ones_are_not_found(root, hashed):
    pictures = OnePicture(root, Manifest.load(root))
    assert pictures.updates(STREAMS[0], "g0i0") is None  # of the split train
    assert pictures.updates(STREAMS[0], "../g2i0") is None
    hashed.clear()
    assert pictures.updates(STREAMS[0], "nobody") is None
    assert not hashed  # all shards are known by now


def test_the_meta_of_a_picture_is_read(root):
    pictures = OnePicture(root, Manifest.load(root))
    meta = pictures.meta(STREAMS[0].folder, "g1i2")
    assert meta is not None and (meta["seed"], meta["split"]) == (2, "dictionary")


def test_the_first_pictures_of_a_split_need_no_more_shards_than_hold_them(root, hashed):
    pictures = OnePicture(root, Manifest.load(root))
    assert len(list(pictures.first(STREAMS[0], "test", 2))) == 2
    assert len(list(pictures.first(STREAMS[0], "test", 99))) == 5
    assert hashed == ["shard-000002.tar", "shard-000003.tar"]


def test_a_shard_that_is_not_what_the_manifest_says_is_refused(root):
    (shard,) = Manifest.load(root).shards(STREAMS[0].folder, "dictionary")
    path = root / shard.path
    data = bytearray(path.read_bytes())
    data[700] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=f"{shard.path} has another SHA-256"):
        OnePicture(root, Manifest.load(root)).updates(STREAMS[0], "g1i0")
    path.unlink()
    with pytest.raises(UserError, match="is missing"):
        OnePicture(root, Manifest.load(root)).updates(STREAMS[0], "g1i0")
