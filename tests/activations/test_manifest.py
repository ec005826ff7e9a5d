import json
from pathlib import Path

import pytest

from diffusae.activations.manifest import Manifest
from diffusae.errors import UserError


def test_a_manifest_reads_back_as_it_was_written(collection):
    root, manifest = collection
    assert Manifest.load(root) == manifest
    assert manifest.splits == {
        "train": {"images": 6, "rejected": 0},
        "validation": {"images": 3, "rejected": 0},
    }
    assert manifest.image_size == (6, 8)
    assert manifest.header["model"] == "toy"


def test_an_unfinished_collection_names_the_command_that_finishes_it(tmp_path: Path):
    with pytest.raises(UserError, match="the collection is not finished; run `diffusae collect`"):
        Manifest.load(tmp_path)


def edited(root: Path, edit) -> None:
    path = root / "manifest.json"
    value = json.loads(path.read_text())
    edit(value)
    path.write_text(json.dumps(value))


def test_another_schema_version_is_refused_with_both_versions(collection):
    edited(collection[0], lambda value: value.update(schema_version=99))
    with pytest.raises(UserError, match="schema version 99, this diffusae reads 1"):
        Manifest.load(collection[0])


def test_a_missing_field_is_named_at_every_level(collection):
    root, _ = collection
    edited(root, lambda value: value["streams"][0].pop("d_in"))
    with pytest.raises(UserError, match=r"stream has the fields .*missing: d_in"):
        Manifest.load(root)
    edited(root, lambda value: value.pop("splits"))
    with pytest.raises(UserError, match="lacks splits"):
        Manifest.load(root)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda value: value.update(streams=5), "streams of a manifest must be a list, is 5"),
        (lambda value: value.update(image_size=7), "image_size of a manifest must be a list, is 7"),
        (
            lambda value: value.update(splits=[]),
            "splits of a manifest must be a JSON object, is a list of 0",
        ),
        (
            lambda value: value["streams"][0].update(grid="ab"),
            'grid of a stream must be a list, is "ab"',
        ),
        (
            lambda value: value["streams"][0].update(d_in=True),
            "d_in of a stream must be a whole number, is true",
        ),
        (
            lambda value: value["shards"][0].update(samples="8"),
            "samples of a shard must be a whole number, is ",
        ),
        (
            lambda value: value["shards"][0].update(bytes=None),
            "bytes of a shard must be a whole number, is null",
        ),
        (lambda value: value["shards"][0].update(samples=-1), "samples=-1 of shard"),
        (lambda value: value["shards"][0].update(split="trian"), "Did you mean 'train'?"),
        (
            lambda value: value["shards"][0].update(stream="mid/t0.60/cond"),
            "unknown stream of shard mid",
        ),
        (lambda value: value["shards"][0].update(samples=10**9), "its updates need 48000000000"),
        (lambda value: value["shards"][0].update(vectors=3), "must count its vectors exactly"),
        (lambda value: value["streams"].append(value["streams"][0]), "two streams share a folder"),
        (lambda value: value.update(image_size=[0, 8]), "both at least 1"),
        (
            lambda value: value["shards"].pop(0),
            "split train has 6 images, its shards of mid/t0.50/cond hold 3",
        ),
        (
            lambda value: value["splits"]["train"].update(images=7),
            "split train has 7 images, its shards of",
        ),
        (
            lambda value: value["splits"]["train"].pop("rejected"),
            "must have counts of images and rejected",
        ),
    ],
)
def test_a_field_of_another_kind_names_the_manifest_and_the_command_that_writes_it(
    collection, edit, message
):
    edited(collection[0], edit)
    with pytest.raises(
        UserError, match=f"(?s)manifest.json is damaged: .*{message}.*run `diffusae collect`"
    ):
        Manifest.load(collection[0])


def test_a_cut_manifest_is_a_user_error(collection):
    path = collection[0] / "manifest.json"
    path.write_text(path.read_text()[:-20])
    with pytest.raises(UserError, match="is not JSON"):
        Manifest.load(collection[0])


def test_an_unknown_stream_lists_the_streams_there_are(collection):
    with pytest.raises(UserError, match=r"known: mid/t0.50/cond, up/t1.00/uncond"):
        collection[1].stream("down", 0.5, "cond")


def test_shards_are_chosen_by_stream_and_split(collection):
    _, manifest = collection
    stream = manifest.stream("mid", 0.5, "cond")
    paths = [shard.path for shard in manifest.shards(stream.folder, "train")]
    assert paths == ["mid/t0.50/cond/shard-000000.tar", "mid/t0.50/cond/shard-000001.tar"]
    assert manifest.vectors(stream, "train") == 6 * 6
    with pytest.raises(UserError, match="unknown split 'test'; known: train, validation"):
        manifest.shards(stream.folder, "test")
