"""Stored codes: what a picture's member holds, and what is refused as one."""

from __future__ import annotations

import hashlib
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, save

from diffusae.activations import codes as codes_module
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
    assert codes.indices.tolist() == [2, 299, 7] and codes.indices.dtype == np.uint16
    assert codes.values.tolist() == [3.0, 0.5, 65504.0] and codes.values.dtype == HALF
    for d_sae, kind in ((256, np.uint8), (257, np.uint16), (65536, np.uint16), (65537, np.uint32)):
        one = PictureCodes.of(np.ones((1, 1)), np.zeros((1, 1), int), d_sae=d_sae, dtype=HALF)
        assert one.indices.dtype == kind


def test_a_member_has_the_steps_from_latent_to_latent_and_the_values_byte_by_byte():
    tensors = load(example().to_bytes())
    assert tensors.keys() == {"counts", "packed"} and tensors["counts"].tolist() == [2, 0, 1]
    # The steps are 2, 297 = 256 + 41, and 7, which begins anew. In float16, 3, .5 and 65504 are
    # 0x4200, 0x3800 and 0x7bff.
    assert list(zlib.decompress(tensors["packed"].tobytes())) == [
        2, 41, 7, 0, 1, 0, 0x00, 0x00, 0xFF, 0x42, 0x38, 0x7B,
    ]  # fmt: skip


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("d_sae", [200, 5120, 70_000])
def test_what_is_packed_is_unpacked_to_the_bit(d_sae, dtype):
    generator = np.random.default_rng(d_sae)
    values = generator.normal(size=(40, 9)).astype(np.float32)  # half of them are not active
    values[[0, 7, 39]] = -1.0
    indices = np.array([generator.choice(d_sae, 9, replace=False) for _ in values])
    kind = np.dtype(dtype)
    codes = PictureCodes.of(values, indices, d_sae=d_sae, dtype=kind)
    read = PictureCodes.unpacked(**load(codes.to_bytes()), d_sae=d_sae, dtype=kind)
    for name, tensor in vars(codes).items():
        assert np.array_equal(getattr(read, name), tensor)
        assert getattr(read, name).dtype == tensor.dtype


def test_a_member_is_at_most_as_large_as_computed_and_smaller_where_positions_are_alike():
    generator = np.random.default_rng(0)
    values = generator.exponential(3.0, size=(256, 20)) + 0.5
    sizes = []
    for alike in (False, True):
        drawn = generator.random((1 if alike else 256, 5120)).argsort(axis=1)[:, :20]
        indices = np.broadcast_to(drawn, (256, 20))
        sizes.append(len(PictureCodes.of(values, indices, d_sae=5120, dtype=HALF).to_bytes()))
    most = codes_size(256, 20, d_sae=5120)
    assert 0.6 * sizes[0] > sizes[1] and sizes[0] < 0.85 * most
    noise = generator.integers(0, 2**16, 9000, dtype=np.uint16)
    assert len(zlib.compress(noise.tobytes(), 1)) - noise.nbytes < 50


def test_more_than_a_picture_can_have_is_not_unpacked(monkeypatch):
    monkeypatch.setattr(codes_module, "MOST_UNPACKED", 11)
    whole = load(example().to_bytes())  # 3 latents of 2 + 2 bytes
    with pytest.raises(ValueError, match="12 bytes of codes are more than 11"):
        PictureCodes.unpacked(**whole, d_sae=300, dtype=HALF)


def test_codes_of_earlier_versions_are_read_as_they_are(tmp_path):
    manifest = written(tmp_path)
    with hashed_tar(tmp_path / "mid" / "t0.50" / "cond" / "k2" / "shard-000000.tar") as tar:
        tar.add("p0", safetensors=tensors(indices=np.array([299, 7], np.uint16)))
        tar.add("p1", safetensors=example().to_bytes())
    old, new = (codes for _, codes in read_codes(tmp_path, manifest, CODES, "test"))
    assert old.indices.tolist() == [299, 7] and new.indices.tolist() == [2, 299, 7]


def test_rows_are_padded_to_the_position_with_the_most_active_latents():
    few = PictureCodes.of(np.array([[2.0]] * 3), np.full((3, 1), 4), d_sae=300, dtype=HALF)
    values, indices = padded([few, example()], 3)
    assert values.tolist() == [[[2, 0]] * 3, [[3, 0.5], [0, 0], [65504, 0]]]
    assert indices.tolist() == [[[4, 0]] * 3, [[2, 299], [0, 0], [7, 0]]]
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


def packed(data: bytes, counts: object = (1, 0, 1), kind: str = "u1") -> bytes:
    numbers = np.frombuffer(data, np.uint8)
    return save({"counts": np.array(counts, kind), "packed": numbers})


RIGHT = zlib.compress(bytes([7, 43, 0, 1, 0, 0, 0x38, 0x42]))
"""Latents 7 and 299 with the values .5 and 3."""


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
        (tensors(more=np.zeros(1)), "p0.safetensors", "codes are counts and packed"),
        (packed(RIGHT[:-1]), "p0.safetensors", "does not hold 2 indices and values"),
        (packed(b"zip" + RIGHT), "p0.safetensors", "packed is damaged"),
        (packed(RIGHT, (1, 1, 1)), "p0.safetensors", "does not hold 3 indices and values"),
        (packed(RIGHT, (1, 0, 0)), "p0.safetensors", "does not hold 1 indices and values"),
        (packed(RIGHT, (2, 0, 0)), "p0.safetensors", "a latent is none of 300"),
        (packed(RIGHT, (1, 1)), "p0.safetensors", "do not fit 3 positions"),
        (packed(RIGHT, (1, 0, 1), "i1"), "p0.safetensors", "must be unsigned"),
        (packed(RIGHT, (2**40, 0, 1), "u8"), "p0.safetensors", "unsigned numbers up to 300"),
        (packed(zlib.compress(bytes(9))), "p0.safetensors", "does not hold 2 indices and values"),
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
