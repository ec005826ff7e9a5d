"""Stored codes: what a picture's member holds, and what is refused as one."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, save

from diffusae.activations.codes import PictureCodes, padded, read_codes
from diffusae.activations.hashed_tar import hashed_tar
from diffusae.activations.journal import journal_path
from diffusae.activations.manifest import MANIFEST, Manifest
from diffusae.activations.reader import verify
from diffusae.activations.schema import CodeStream, CollectedSample, Stream
from diffusae.activations.size import codes_size
from diffusae.activations.writer import ActivationWriter
from diffusae.errors import UserError

HALF = np.dtype(np.float16)
STREAM = Stream(block="mid", t=0.5, conditioning="cond", hookpoint="mid_block", step_index=1,
                timestep=500.0, grid=(1, 3), d_in=2)  # fmt: skip
CODES = CodeStream(stream="mid/t0.50/cond", tag="k2", d_sae=300, sha256="a" * 64)


def example() -> PictureCodes:
    """Three positions: two active latents, none, and one, of which one value rounds to 0."""
    values = np.array([[0.5, 3.0], [0.0, 0.0], [1e-9, 70000.0]], np.float32)
    indices = np.array([[299, 2], [0, 1], [5, 7]])
    return PictureCodes.of(values, indices, d_sae=300, dtype=HALF)


def test_entries_that_are_active_are_kept_in_the_smallest_types_that_hold_them():
    codes = example()
    assert codes.counts.tolist() == [2, 0, 1] and codes.counts.dtype == np.uint8
    assert codes.indices.tolist() == [299, 2, 7] and codes.indices.dtype == np.uint16
    assert codes.values.tolist() == [0.5, 3.0, 65504.0] and codes.values.dtype == HALF
    for d_sae, kind in ((256, np.uint8), (257, np.uint16), (65536, np.uint16), (65537, np.uint32)):
        one = PictureCodes.of(np.ones((1, 1)), np.zeros((1, 1), int), d_sae=d_sae, dtype=HALF)
        assert one.indices.dtype == kind


def test_a_member_is_a_safetensors_file_of_the_computed_size():
    codes = example()
    tensors = load(codes.to_bytes())
    assert {name: tensor.tolist() for name, tensor in tensors.items()} == {
        "counts": [2, 0, 1],
        "indices": [299, 2, 7],
        "values": [0.5, 3.0, 65504.0],
    }
    whole = PictureCodes.of(
        np.ones((256, 20)), np.zeros((256, 20), int), d_sae=5120, dtype=HALF
    ).to_bytes()
    assert abs(len(whole) - codes_size(256, 20, d_sae=5120)) <= 16


def test_rows_are_padded_to_the_position_with_the_most_active_latents():
    few = PictureCodes.of(np.array([[2.0]] * 3), np.full((3, 1), 4), d_sae=300, dtype=HALF)
    values, indices = padded([few, example()], 3)
    assert values.tolist() == [[[2, 0]] * 3, [[0.5, 3], [0, 0], [65504, 0]]]
    assert indices.tolist() == [[[4, 0]] * 3, [[299, 2], [0, 0], [7, 0]]]
    assert values.dtype == np.float32 and indices.dtype == np.int64
    assert [part.shape for part in padded([], 3)] == [(0, 3, 1)] * 2


def test_dense_codes_have_every_value_at_its_latent():
    dense = example().dense(300)
    assert dense.shape == (3, 300) and dense.dtype == np.float32
    assert {(int(p), int(c)): float(dense[p, c]) for p, c in np.argwhere(dense)} == {
        (0, 299): 0.5, (0, 2): 3.0, (2, 7): 65504.0,
    }  # fmt: skip


def written(root: Path) -> Manifest:
    """A collection of two pictures. Its encoder makes the length of an update latent 1 or 2."""

    def encode(updates: np.ndarray) -> bytes:
        assert updates.dtype == HALF
        values = np.abs(updates).astype(np.float32)
        indices = np.broadcast_to([1, 2], values.shape)
        return PictureCodes.of(values, indices, d_sae=300, dtype=HALF).to_bytes()

    writer = ActivationWriter(
        root, streams=[STREAM], header={}, with_images=False, codes=[CODES],
        encoders={CODES.folder: encode},
    )  # fmt: skip
    updates = np.array([[1.0, 0.0], [0.1, 2.0], [0.0, 0.0]], np.float32)
    writer.write_group(
        0,
        [
            CollectedSample(
                image_id=f"p{n}", prompt="a fish", seed=n, split="test",
                updates={STREAM.folder: updates * (n + 1)},
            )
            for n in range(2)
        ],
    )  # fmt: skip
    return ActivationWriter.reopen(root).finish(1)


def test_codes_of_rounded_updates_are_written_in_the_place_of_updates(tmp_path):
    manifest = written(tmp_path)
    assert Manifest.load(tmp_path) == manifest and not verify(tmp_path, manifest)
    assert [shard.path for shard in manifest.entries] == ["mid/t0.50/cond/k2/shard-000000.tar"]
    assert manifest.codes_of(STREAM, "k2", sha256="a" * 64) == CODES
    read = dict(read_codes(tmp_path, manifest, CODES, "test"))
    assert list(read) == ["p0", "p1"]
    assert read["p1"].values.tolist() == [2.0, float(np.float16(0.2)), 4.0]
    assert (read["p1"].counts.tolist(), read["p1"].indices.tolist()) == ([1, 2, 0], [1, 1, 2])


def test_an_unknown_tag_is_told_with_the_known_and_another_autoencoder_is_refused(tmp_path):
    manifest = written(tmp_path)
    with pytest.raises(UserError, match=r"'k4'; known: k2"):
        manifest.codes_of(STREAM, "k4", sha256="a" * 64)
    with pytest.raises(UserError, match=r"k2 belong to another autoencoder: their SHA-256 is aaaa"):
        manifest.codes_of(STREAM, "k2", sha256="b" * 64)
    with pytest.raises(UserError, match=r"only their codes are stored \(k2\)"):
        manifest.shards(STREAM.folder, "test")


def test_a_tag_that_is_no_folder_is_refused():
    for tag in ("k=2", ".k2", "a/b", ""):
        with pytest.raises(UserError, match=r"becomes a folder of codes"):
            CodeStream(stream=STREAM.folder, tag=tag, d_sae=300, sha256="a" * 64)
    assert CodeStream(stream="a", tag="relu-0.55", d_sae=1, sha256="").folder == "a/relu-0.55"


def test_another_autoencoder_does_not_go_on_with_a_collection(tmp_path):
    written(tmp_path)
    other = CodeStream(stream=STREAM.folder, tag="k2", d_sae=300, sha256="c" * 64)
    with pytest.raises(UserError, match=r"codes.mid/t0.50/cond/k2.sha256: aaaa\w+ -> cccc"):
        ActivationWriter(tmp_path, streams=[STREAM], header={}, with_images=False, codes=[other])


def tensors(**changed: np.ndarray) -> bytes:
    whole = {
        "counts": np.array([1, 0, 1], np.uint8),
        "indices": np.array([7, 299], np.uint16),
        "values": np.array([0.5, 2.0], np.float16),
    }
    return save(whole | changed)


@pytest.mark.parametrize(
    ("member", "name", "message"),
    [
        (tensors(indices=np.array([7, 300], np.uint16)), "p0.safetensors", "none of 300"),
        (tensors(values=np.array([0.5, 0], np.float16)), "p0.safetensors", "not above 0"),
        (tensors(values=np.array([0.5, np.inf], np.float16)), "p0.safetensors", "and finite"),
        (tensors(counts=np.array([1, 1, 1], np.uint8)), "p0.safetensors", "do not fit 3 positions"),
        (tensors(counts=np.array([2], np.uint8)), "p0.safetensors", "do not fit 3 positions"),
        (tensors(counts=np.array([1, 0, 1], np.int8)), "p0.safetensors", "must be unsigned"),
        (tensors(more=np.zeros(1)), "p0.safetensors", "codes are counts, indices and values"),
        (tensors()[:-1], "p0.safetensors", "cannot be read"),
        (b"", "p0.safetensors", "cannot be read"),
        (tensors(), "p0.pyd", r"only .safetensors are read, never pickles"),
    ],
)
def test_a_member_that_is_no_codes_is_refused_by_its_place(tmp_path, member, name, message):
    written(tmp_path)
    path = tmp_path / "mid" / "t0.50" / "cond" / "k2" / "shard-000000.tar"
    key, _, extension = name.partition(".")
    with hashed_tar(path) as tar:
        tar.add(key, **{extension: member})
        tar.add("p1", safetensors=tensors())
    manifest = Manifest.load(tmp_path)
    with pytest.raises(UserError, match=message) as refused:
        list(read_codes(tmp_path, manifest, CODES, "test"))
    assert "mid/t0.50/cond/k2/shard-000000.tar" in str(refused.value)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"stream": "up/t0.50/cond"}, "must have a stream of the collection"),
        ({"d_sae": 0}, "and latents"),
    ],
)
def test_a_manifest_whose_codes_do_not_fit_is_refused(tmp_path, changed, message):
    written(tmp_path)
    value = json.loads((tmp_path / MANIFEST).read_text())
    value["codes"][0] |= changed
    (tmp_path / MANIFEST).write_text(json.dumps(value))
    with pytest.raises(UserError, match=message):
        Manifest.load(tmp_path)


def test_the_journal_has_the_hash_of_a_shard_of_codes(tmp_path):
    (shard,) = written(tmp_path).entries
    journal = json.loads(journal_path(tmp_path, 0).read_text())
    digest = hashlib.sha256((tmp_path / shard.path).read_bytes()).hexdigest()
    assert journal["shards"][shard.path]["sha256"] == shard.sha256 == digest
