import io
import json
import pickle
import tarfile
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from diffusae.activations.manifest import Manifest
from diffusae.activations.reader import (
    discard_damaged,
    load_updates,
    read_images,
    read_updates,
    require_sound,
    verify,
)
from diffusae.activations.schema import CollectedSample
from diffusae.activations.writer import ActivationWriter
from diffusae.errors import UserError
from small_collections import stream_of
from tars import write_tar

SHARD = "mid/t0.50/cond/shard-000001.tar"


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_updates_ids_and_meta_come_back_as_written(data: st.DataObject):
    height, width, d_in = (data.draw(st.integers(1, 4)) for _ in range(3))
    stream = stream_of((height, width), d_in, block="b", t=data.draw(st.floats(0, 1)))
    ids = data.draw(st.lists(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}", fullmatch=True),
                             min_size=1, max_size=5, unique=True))  # fmt: skip
    finite = hnp.arrays(np.float16, (height * width, d_in), elements=st.floats(-1e3, 1e3, width=16))
    text = st.text(max_size=20)
    records = [
        CollectedSample(image_id=i, prompt=data.draw(text), seed=n, split="train",
                    updates={stream.folder: data.draw(finite)}, meta={"note": data.draw(text)})
        for n, i in enumerate(ids)
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as root:
        writer = ActivationWriter(root, streams=[stream], header={}, with_images=False)
        writer.write_group(0, records)
        writer.finish()
        manifest = Manifest.load(root)
        samples = list(
            read_updates(root, manifest, manifest.stream("b", stream.t, "cond"), "train")
        )
    assert [sample.image_id for sample in samples] == ids
    for sample, record in zip(samples, records, strict=True):
        assert sample.updates.dtype == np.float16
        np.testing.assert_array_equal(sample.updates, record.updates[stream.folder])
        assert sample.meta == {
            "prompt": record.prompt,
            "seed": record.seed,
            "split": "train",
            **record.meta,
        }


def test_pictures_come_back_bit_for_bit(collection, record):
    root, manifest = collection
    images = list(read_images(root, manifest, "validation"))
    assert [image_id for image_id, _, _ in images] == ["img0006", "img0007", "img0008"]
    for n, (_, image, meta) in enumerate(images, start=6):
        np.testing.assert_array_equal(image, record(n).image)
        assert meta["seed"] == n


def test_load_updates_stacks_a_split_in_reading_order(collection, record):
    root, manifest = collection
    stream = manifest.stream("mid", 0.5, "cond")
    ids, updates = load_updates(root, manifest, stream, "train")
    assert ids == [f"img{n:04d}" for n in range(6)]
    assert updates.shape == (6, 6, 4)
    np.testing.assert_array_equal(updates[4], record(4).updates[stream.folder].astype(np.float16))


def test_a_sound_collection_has_no_faults(collection):
    assert verify(*collection) == []
    require_sound(*collection)


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_every_damaged_shard_is_named_with_expected_and_found_in_one_error(collection):
    root, manifest = collection
    flip_a_byte(root / SHARD)
    (root / "images/shard-000000.tar").unlink()
    with open(root / "up/t1.00/uncond/shard-000002.tar", "r+b") as file:
        file.truncate(1000)
    faults = {fault.shard: fault for fault in verify(root, manifest)}
    assert {shard: fault.kind for shard, fault in faults.items()} == {
        SHARD: "hash",
        "images/shard-000000.tar": "missing",
        "up/t1.00/uncond/shard-000002.tar": "size",
    }
    assert faults["up/t1.00/uncond/shard-000002.tar"].found == "1000 bytes"
    with pytest.raises(UserError, match="3 shards") as caught:
        require_sound(root, manifest)
    for fault in faults.values():
        assert (
            f"{fault.shard}: {fault.kind}: expected {fault.expected}, found {fault.found}"
            in str(caught.value)
        )
    assert "diffusae collect" in str(caught.value)
    assert [fault.kind for fault in verify(root, manifest, deep=False)] == ["missing", "size"]
    assert verify(root, manifest, streams=["down/t0.00/cond"]) == []


def test_a_directory_in_a_shards_place_is_unreadable_whatever_its_size(collection):
    root, manifest = collection
    (root / SHARD).unlink()
    (root / SHARD).mkdir()
    size = (root / SHARD).stat().st_size
    entries = tuple(
        replace(shard, bytes=size) if shard.path == SHARD else shard for shard in manifest.entries
    )
    (fault,) = verify(root, replace(manifest, entries=entries))
    assert (fault.shard, fault.kind, fault.found) == (SHARD, "unreadable", "Is a directory")


def test_after_discarding_the_next_writer_redoes_just_the_damaged_groups(
    collection, writer, record
):
    root, manifest = collection
    flip_a_byte(root / SHARD)
    assert discard_damaged(root, verify(root, manifest)) == [1]
    assert not (root / "manifest.json").exists()
    made = writer()
    assert list(made.finished_groups()) == [0, 2]
    made.write_group(1, [record(n) for n in range(3, 6)])
    assert made.finish() == manifest
    require_sound(root, manifest)


def test_nothing_damaged_discards_nothing(collection):
    root, manifest = collection
    assert discard_damaged(root, []) == []
    assert Manifest.load(root) == manifest


def members_of(path: Path) -> list[tuple[str, bytes]]:
    with tarfile.open(path) as tar:
        return [(member.name, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


class Bomb:
    """Unpickling this writes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return (Path.touch, (self.target,))


def read_all(collection) -> None:
    root, manifest = collection
    for _ in read_updates(root, manifest, manifest.stream("mid", 0.5, "cond"), "train"):
        pass


@pytest.mark.parametrize(
    "extension", ["pyd", "pkl", "pickle", "pth", "npz", "pyd.gz", "txt", "NPY"]
)
def test_a_foreign_member_is_refused_by_name_and_never_run(
    collection, tmp_path: Path, extension: str
):
    path = collection[0] / SHARD
    evil = pickle.dumps(Bomb(tmp_path / "ran"))
    write_tar(path, [*members_of(path), (f"img0003.{extension}", evil)])
    with pytest.raises(
        UserError, match=rf"shard-000001.tar: member 'img0003.{extension}' is refused"
    ):
        read_all(collection)
    assert not (tmp_path / "ran").exists()


def test_a_member_without_extension_is_refused_though_webdataset_would_skip_it(collection):
    path = collection[0] / SHARD
    write_tar(path, [*members_of(path), ("README", b"")])
    with pytest.raises(UserError, match="member 'README' is refused"):
        read_all(collection)


def test_an_npy_with_objects_inside_is_refused(collection, tmp_path: Path):
    path = collection[0] / SHARD
    members = dict(members_of(path))
    members["img0004.npy"] = npy(np.array([Bomb(tmp_path / "ran")], dtype=object))
    write_tar(path, members.items())
    with pytest.raises(
        UserError, match=r"member img0004.npy cannot be read \(an array of object is not read"
    ):
        read_all(collection)
    assert not (tmp_path / "ran").exists()


def test_a_member_that_comes_twice_is_refused(collection):
    path = collection[0] / SHARD
    members = members_of(path)
    write_tar(path, [*members[:2], members[1], *members[2:]])
    with pytest.raises(UserError, match=r"member 'img0003.npy' comes twice"):
        read_all(collection)


def test_interleaved_keys_are_refused(collection):
    path = collection[0] / SHARD
    first_json, first_npy, second_json, second_npy, *rest = members_of(path)
    write_tar(path, [first_json, second_json, first_npy, second_npy, *rest])
    with pytest.raises(UserError, match=r"'img0003' lacks its .npy"):
        read_all(collection)


def test_a_key_that_another_shard_had_is_refused(collection):
    root, _ = collection
    write_tar(root / SHARD, members_of(root / "mid/t0.50/cond/shard-000000.tar"))
    with pytest.raises(
        UserError, match=r"shard-000001.tar: key 'img0000' comes twice or interleaved"
    ):
        read_all(collection)


@pytest.mark.parametrize(
    ("array", "shown"),
    [
        (np.zeros((6, 5), np.float16), r"float16 \(6, 5\)"),
        (np.zeros((6, 4), np.float32), r"float32 \(6, 4\)"),
    ],
)
def test_a_foreign_shape_or_dtype_shows_both(collection, array: np.ndarray, shown: str):
    path = collection[0] / SHARD
    members = dict(members_of(path))
    members["img0005.npy"] = npy(array)
    write_tar(path, members.items())
    with pytest.raises(
        UserError, match=rf"'img0005' is {shown}, the manifest's stream .* float16 \(6, 4\)"
    ):
        read_all(collection)


def test_a_tar_cut_anywhere_is_named(collection):
    path = collection[0] / SHARD
    whole = path.read_bytes()
    payload = 3 * (512 + 512 + 512 + 512)  # three samples: two headers and two padded members each
    for length in range(0, payload, 173):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"shard-000001.tar"):
            read_all(collection)


def test_a_missing_shard_is_named(collection):
    (collection[0] / SHARD).unlink()
    with pytest.raises(UserError, match=r"shard-000001.tar is missing"):
        read_all(collection)


def test_meta_that_is_not_json_is_named(collection):
    path = collection[0] / SHARD
    members = dict(members_of(path))
    members["img0005.json"] = b"{"
    write_tar(path, members.items())
    with pytest.raises(UserError, match=r"member img0005.json cannot be read"):
        read_all(collection)


def test_pictures_of_another_size_are_refused(collection):
    root, manifest = collection
    other = replace(manifest, image_size=(64, 64))
    with pytest.raises(UserError, match=r"size \(6, 8\), the manifest says \(64, 64\)"):
        list(read_images(root, other, "train"))


def test_a_collection_without_pictures_says_so(tmp_path, streams, record):
    writer = ActivationWriter(tmp_path, streams=streams, header={}, with_images=False)
    writer.write_group(0, [record(0)])
    with pytest.raises(UserError, match="unknown stream 'images'"):
        list(read_images(tmp_path, writer.finish(), "train"))
    assert json.loads((tmp_path / "manifest.json").read_text())["image_size"] is None


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"[1]", "member img0003.json cannot be read .*must be a JSON object"),
        (b'{"prompt": 5}', "prompt must be text, is 5"),
        (b'{"labels": ["cat"]}', "labels must be a JSON object"),
        (b'{"positions": [0, 1]}', r"'img0003' must list 6 ascending positions from 0 to 5"),
        (b'{"positions": [0, 1, 2, 3, 4, 6]}', "must list 6 ascending positions"),
        (b'{"positions": [0, 1, 2, 3, 3, 5]}', "must list 6 ascending positions"),
    ],
)
def test_what_a_sample_tells_of_itself_is_checked(collection, contents, message):
    path = collection[0] / SHARD
    members = dict(members_of(path))
    members["img0003.json"] = contents
    write_tar(path, members.items())
    with pytest.raises(UserError, match=message):
        read_all(collection)
