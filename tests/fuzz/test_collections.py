"""Damaged collections: shards, arrays, captions, manifests, journals, local copies, tasks."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusae.activations.datamodule import ActivationDataModule
from diffusae.activations.hashed_tar import HashedTar, png_bytes
from diffusae.activations.journal import read_journals
from diffusae.activations.local_copy import LocalCopy
from diffusae.activations.manifest import Manifest
from diffusae.activations.mapped import MappedShard
from diffusae.activations.merge import merge_parts
from diffusae.activations.npy import npy_bytes
from diffusae.activations.parts import parts_at
from diffusae.activations.reader import load_updates, read_images, read_updates, require_sound
from diffusae.activations.schema import CollectedSample
from diffusae.activations.writer import COLLECTION, ActivationWriter
from fuzz.mutations import mutated, mutated_json, mutated_npy, mutated_tar
from fuzz.only_user_errors import only_user_errors, replaced, unsealed
from small_collections import stream_of

STREAM = stream_of((2, 3), 4)
UPDATES = np.arange(24, dtype=np.float16).reshape(6, 4)
PICTURE = np.arange(144, dtype=np.uint8).reshape(6, 8, 3)
CAPTION = {"prompt": "a cat", "seed": 1, "split": "train"}
COPY = {"url": "https://example.org/x", "manifest": "0" * 64, "attempts": 3, "most_bytes": None}


def tar_of(**members: bytes) -> bytes:
    file = io.BytesIO()
    tar = HashedTar(file)
    for key in ("a", "b"):
        tar.add(key, **members)
    tar.end()
    return file.getvalue()


SHARD = tar_of(npy=npy_bytes(UPDATES), json=json.dumps(CAPTION).encode())
PICTURES = tar_of(png=png_bytes(PICTURE), json=json.dumps(CAPTION).encode())


def write_collection(root: Path) -> Path:
    writer = ActivationWriter(root, streams=[STREAM], header={"model": "toy"})
    for index, split in enumerate(("train", "validation")):
        about: dict[str, Any] = {"prompt": "a cat", "seed": 1, "split": split, "image": PICTURE}
        records = [
            CollectedSample(image_id=f"{key}{index}", updates={STREAM.folder: UPDATES}, **about)
            for key in "ab"
        ]
        writer.write_group(index, records)
    writer.finish()
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_collection(tmp_path_factory.mktemp("fuzz") / "activations")


@pytest.fixture(scope="module")
def json_of(root: Path) -> Callable[[str], Any]:
    return lambda name: unsealed((root / name).read_bytes())


def read_shard(root: Path, manifest: Manifest) -> None:
    """Read every number with both readers."""
    with only_user_errors():
        samples = read_updates(root, manifest, STREAM, "train")
        assert all(np.asarray(sample.updates).size for sample in samples)
    with only_user_errors():
        shard = manifest.shards(STREAM.folder, "train")[0]
        mapped = MappedShard(
            root, shard, STREAM, positions=STREAM.positions, remedy="collect again"
        )
        for place in range(len(mapped)):
            assert mapped.updates(place).shape == UPDATES.shape and mapped.key(place)
        assert len(mapped.slot_of_vector) == 12 and len(mapped.table)
        assert mapped.vector(11).sum() is not None


@given(st.one_of(mutated_tar(SHARD), mutated(SHARD)))
def test_damaged_shards(root, data):
    with replaced(root / STREAM.folder / "shard-000000.tar", data):
        read_shard(root, Manifest.load(root))


@given(mutated_npy(npy_bytes(UPDATES)))
def test_damaged_arrays(root, array):
    data = tar_of(npy=array, json=json.dumps(CAPTION).encode())
    with replaced(root / STREAM.folder / "shard-000000.tar", data):
        read_shard(root, Manifest.load(root))


@given(mutated_json({**CAPTION, "positions": [0, 1, 2, 3, 4, 5]}))
def test_damaged_captions_of_pictures(root, text):
    data = tar_of(npy=npy_bytes(UPDATES), json=text)
    with replaced(root / STREAM.folder / "shard-000000.tar", data):
        read_shard(root, Manifest.load(root))


DAMAGED_PNG = mutated(png_bytes(PICTURE)).map(lambda png: tar_of(png=png, json=b"{}"))


@given(st.one_of(mutated_tar(PICTURES), mutated(PICTURES), DAMAGED_PNG))
def test_damaged_pictures(root, data):
    with replaced(root / "images" / "shard-000000.tar", data), only_user_errors():
        for _, picture, _ in read_images(root, Manifest.load(root), "train"):
            assert picture.shape == (6, 8, 3)


@given(st.data())
def test_damaged_manifests(root, json_of, data):
    name = "manifest.json"
    text = data.draw(st.one_of(mutated_json(json_of(name)), mutated((root / name).read_bytes())))
    with replaced(root / name, text), only_user_errors():
        manifest = Manifest.load(root)
        require_sound(root, manifest, deep=False)
        stream = manifest.stream("mid", 0.5, "cond")
        ids, updates = load_updates(root, manifest, stream, "train")
        assert len(ids) == len(updates)
        options: dict[str, Any] = {"batch_size": 4, "buffer_vectors": 8, "seed": 0}
        batches = ActivationDataModule(root, block="mid", t=0.5, conditioning="cond", **options)
        assert len(list(batches.train_dataloader()))
        assert len(list(batches.val_dataloader()))


@given(st.data())
def test_a_damaged_journal_costs_only_its_group(root, json_of, data):
    name = "groups/000000.json"
    text = data.draw(st.one_of(mutated_json(json_of(name)), mutated((root / name).read_bytes())))
    with replaced(root / name, text):
        with only_user_errors():
            assert 1 in read_journals(root)
            assert set(ActivationWriter.reopen(root).finished_groups()) <= {0, 1}
        with only_user_errors():
            merge_parts(root / "merged", [root], groups=2)


@given(st.data())
def test_a_damaged_description_of_a_collection(root, json_of, data):
    whole = (root / COLLECTION).read_bytes()
    text = data.draw(st.one_of(mutated_json(json_of(COLLECTION)), mutated(whole)))
    with replaced(root / COLLECTION, text):
        with only_user_errors():
            ActivationWriter.reopen(root)
        with only_user_errors():
            ActivationWriter(root, streams=[STREAM], header={"model": "toy"})
        with only_user_errors():
            merge_parts(root / "merged", [root], groups=2)


@given(text=mutated_json(COPY))
def test_damaged_mirrors(tmp_path_factory, root, text):
    path = root.parent / "mirror.json"
    path.write_bytes(text)
    with only_user_errors():
        LocalCopy.of(path.parent)


@given(st.text(max_size=20).map(lambda name: name.replace("/", "").replace("\0", "") or "x"))
def test_odd_names_of_tasks(root, name):
    folder = root / "groups" / "parts"
    folder.mkdir(exist_ok=True)
    for file in (f"{name}-of-{name}", f"0-of-{name}"):
        with only_user_errors():
            try:
                (folder / file).touch()
            except (OSError, UnicodeEncodeError):  # this file system does not take the name
                continue
            parts_at(root)
            (folder / file).unlink()
