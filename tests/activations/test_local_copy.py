"""A local copy gives the collection's samples and batches, and checks all that it fetches."""

import json
import shutil
import time

import fsspec
import pytest
import torch

from command import serve
from diffusae.activations import transport
from diffusae.activations.local_copy import LocalCopy, keep_copy, open_shard
from diffusae.activations.manifest import Manifest
from diffusae.activations.reader import read_images, read_updates, require_sound
from diffusae.errors import UserError
from diffusae.files import sha256_of
from local_server import served
from small_collections import data_of

MID = "mid/t0.50/cond"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(transport, "PAUSE_S", 0.0)


@pytest.fixture
def origin(collection):
    root, _ = collection
    (root / "run.json").write_text('{"signature": "abc"}')
    return root


@pytest.fixture
def here(tmp_path):
    return tmp_path / "here"


@pytest.fixture
def server(origin):
    with served(origin) as state:
        yield state


def batches(root, *, epochs=(0, 1), **options):
    data = data_of(root, **options)
    data.prepare_data()
    loader, made = data.train_dataloader(), []
    for epoch in epochs:
        loader.set_epoch(epoch)
        made += [batch.clone() for batch in loader]
    return [*made, *data.val_dataloader()]


def same(a, b):
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def shards_in(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*.tar"))


def in_memory(origin):
    filesystem = fsspec.filesystem("memory")
    if filesystem.exists("/bucket"):
        filesystem.rm("/bucket", recursive=True)
    filesystem.put(str(origin), "/bucket", recursive=True)
    return "memory://bucket"


@pytest.mark.parametrize("reader", ["mapped", "webdataset"])
@pytest.mark.parametrize("kind", ["file", "memory", "pipe", "http"])
def test_batches_are_those_of_the_collection_by_every_kind_of_url(
    origin, here, server, kind, reader
):
    url = {
        "file": f"file://{origin}",
        "memory": in_memory(origin),
        "pipe": f"pipe:cat {origin}/{{path}}",
        "http": server.url,
    }[kind]
    assert keep_copy(here, url) == Manifest.load(origin)
    assert shards_in(here) == []  # on demand
    assert same(batches(here, reader=reader), batches(origin, reader=reader))
    # Of this stream alone
    assert shards_in(here) == [f"{MID}/shard-00000{n}.tar" for n in range(3)]


@pytest.mark.parametrize("reader", ["mapped", "webdataset"])
def test_workers_fetch_over_http_and_give_the_same_batches(origin, here, server, reader):
    serve()  # from which the workers fork
    keep_copy(here, server.url)
    assert same(batches(here, reader=reader, workers=2), batches(origin))
    paths = [path for path, _ in server.asked if path.endswith(".tar")]
    assert len(paths) == len(set(paths)) == 3  # both workers need all, each is asked for once


def test_pictures_and_samples_are_those_of_the_collection(origin, here, server):
    manifest = keep_copy(here, server.url)
    theirs = [
        sample.image_id for sample in read_updates(origin, manifest, manifest.streams[1], "train")
    ]
    assert [
        sample.image_id for sample in read_updates(here, manifest, manifest.streams[1], "train")
    ] == theirs
    for ours, other in zip(
        read_images(here, manifest, "train"), read_images(origin, manifest, "train"), strict=True
    ):
        assert ours[0] == other[0] and (ours[1] == other[1]).all()


@pytest.mark.parametrize("reader", ["mapped", "webdataset"])
def test_the_next_shard_is_fetched_while_one_is_read(origin, here, server, reader):
    keep_copy(here, server.url)
    loader = iter(data_of(here, reader=reader, buffer_vectors=5).train_dataloader())
    next(loader)  # five of the first shard's 18 vectors
    deadline = time.monotonic() + 10
    while len(shards_in(here)) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert shards_in(here) == [f"{MID}/shard-000000.tar", f"{MID}/shard-000001.tar"]


def test_what_goes_wrong_ahead_is_told_when_the_shard_is_read(origin, here, server):
    manifest = keep_copy(here, server.url)
    (origin / MID / "shard-000001.tar").unlink()
    with pytest.raises(UserError, match=r"shard-000001.tar is not found at"):
        list(read_updates(here, manifest, manifest.stream("mid", 0.5, "cond"), "train"))
    with pytest.raises(UserError, match=r"shard-000001.tar is not found at"):
        batches(here)


def test_what_is_here_needs_no_network(origin, here):
    with served(origin) as server:
        keep_copy(here, server.url)
        first = batches(here)
    keep_copy(here, server.url)  # the server is gone
    assert same(batches(here), first)
    with pytest.raises(UserError, match="cannot be fetched from"):
        batches(here, block="up", t=1.0, conditioning="uncond")


def test_the_collections_record_comes_along(origin, here):
    keep_copy(here, f"file://{origin}")
    assert (here / "run.json").read_bytes() == (origin / "run.json").read_bytes()


def test_a_cut_download_of_a_shard_goes_on(origin, here, server):
    server.cuts[f"{MID}/shard-000001.tar"] = 3000
    keep_copy(here, server.url)
    assert same(batches(here), batches(origin))


def test_a_shard_that_is_another_than_the_manifest_says_is_never_read(origin, here):
    keep_copy(here, f"file://{origin}")
    path = origin / MID / "shard-000000.tar"
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    with pytest.raises(
        UserError, match=r"shard-000000.tar from file.* is not what the manifest says"
    ):
        batches(here)
    assert not (here / MID / "shard-000000.tar").exists()


def test_a_local_shard_that_is_damaged_is_fetched_again(origin, here, server, caplog):
    manifest = keep_copy(here, server.url)
    first = batches(here)
    (here / MID / "shard-000001.tar").write_bytes(b"damaged")
    require_sound(here, manifest)
    assert (
        "shard-000001.tar: size" in caplog.text and not (here / MID / "shard-000001.tar").exists()
    )
    assert same(batches(here), first)


def test_a_bounded_cache_keeps_within_its_bytes_and_gives_the_same_batches(origin, here, server):
    size = max(shard.bytes for shard in Manifest.load(origin).entries)
    keep_copy(here, server.url, most_bytes=size)
    seen = []

    class Watched(list):
        def __iter__(self):
            for batch in super().__iter__():
                seen.append(len(shards_in(here)))
                yield batch

    assert same(Watched(batches(here)), batches(origin))
    assert len(shards_in(here)) == 1
    assert len(server.asked) > 2 + 3  # fetched again in the second epoch


def test_the_longest_unused_shard_goes_first(origin, here, server):
    manifest = keep_copy(here, server.url)
    shards = manifest.shards(MID, "train") + manifest.shards(MID, "validation")
    keep_copy(here, server.url, most_bytes=2 * shards[0].bytes)
    for number in (0, 1, 0, 2):
        open_shard(here, shards[number]).close()
    assert shards_in(here) == [shards[0].path, shards[2].path]


def test_a_cache_that_cannot_hold_one_shard_is_refused(origin, here):
    with pytest.raises(
        UserError, match=r"cache_bytes=100 cannot hold the largest shard of \d+ bytes; raise it"
    ):
        keep_copy(here, f"file://{origin}", most_bytes=100)


def test_a_manifest_of_another_hash_is_refused(origin, here):
    expected = sha256_of(origin / "manifest.json")
    with pytest.raises(
        UserError, match=rf"has SHA-256 {expected}, activations.source_sha256 is 00"
    ):
        keep_copy(here, f"file://{origin}", manifest_sha256="00")
    assert not (here / "manifest.json").exists()
    keep_copy(here, f"file://{origin}", manifest_sha256=expected)
    with pytest.raises(UserError, match=r"activations.source_sha256 is 00"):
        keep_copy(here, f"file://{origin}", manifest_sha256="00")


@pytest.mark.parametrize(
    "path", ["../../evil.tar", "/tmp/evil.tar", "mid/$(touch x).tar", "run.json", "mid/../../a.tar"]
)
def test_a_manifest_that_leads_out_of_its_directory_is_refused(origin, here, path):
    value = json.loads((origin / "manifest.json").read_text())
    value["shards"][0]["path"] = path
    (origin / "manifest.json").write_text(json.dumps(value))
    with pytest.raises(UserError, match=r"which is no shard's place; do not use it"):
        keep_copy(here, f"file://{origin}")
    assert [p for p in here.iterdir() if not p.name.startswith(".")] == []


def test_an_unfinished_collection_elsewhere_is_no_collection(origin, here):
    (origin / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"manifest.json is not found at file://"):
        keep_copy(here, f"file://{origin}")
    (origin / "manifest.json").write_text("{")
    with pytest.raises(UserError, match="is not JSON"):
        keep_copy(here, f"file://{origin}")


def test_a_collection_that_was_made_here_is_not_written_over(origin):
    before = sorted(origin.rglob("*"))
    with pytest.raises(UserError, match=r"holds a collection that was made here"):
        keep_copy(origin, "memory://bucket")
    assert [p for p in sorted(origin.rglob("*")) if p.name != ".mirror.lock"] == before


@pytest.mark.parametrize("text", [None, "", "{", '{"url": 3}'])
def test_a_mirror_json_that_is_missing_or_damaged_is_written_again(origin, here, text):
    keep_copy(here, f"file://{origin}")
    path = here / "mirror.json"
    written = path.read_bytes()
    path.unlink() if text is None else path.write_text(text)
    keep_copy(here, f"file://{origin}")
    assert path.read_bytes() == written


@pytest.mark.parametrize("text", [None, "", "{}"])
def test_a_run_json_of_a_copy_that_is_missing_or_damaged_is_fetched_again(origin, here, text):
    (origin / "run.json").write_text('{"status": "finished"}')
    keep_copy(here, f"file://{origin}")
    (here / "run.json").unlink() if text is None else (here / "run.json").write_text(text)
    keep_copy(here, f"file://{origin}")
    assert (here / "run.json").read_bytes() == (origin / "run.json").read_bytes()


@pytest.mark.parametrize("name", ["mirror.json", "run.json"])
def test_a_directory_in_the_place_of_a_copys_own_file_is_named(origin, here, name):
    keep_copy(here, f"file://{origin}")
    (here / name).unlink()
    (here / name).mkdir()
    with pytest.raises(UserError, match=rf"{name} is no file; remove it"):
        keep_copy(here, f"file://{origin}")
    (here / name).rmdir()
    keep_copy(here, f"file://{origin}")
    assert (here / name).is_file()


def test_a_copy_whose_mirror_json_is_lost_is_no_copy_of_another_collection(origin, here, tmp_path):
    keep_copy(here, f"file://{origin}")
    (here / "mirror.json").unlink()
    other = tmp_path / "other"
    shutil.copytree(origin, other)
    (other / "manifest.json").write_bytes((origin / "manifest.json").read_bytes() + b" ")
    with pytest.raises(UserError, match=r"unknown source, and .* holds another collection"):
        keep_copy(here, f"file://{other}")


def test_a_mirror_moves_with_its_collection_and_takes_no_other(origin, here, tmp_path):
    keep_copy(here, f"file://{origin}")
    moved = tmp_path / "moved"
    shutil.copytree(origin, moved)
    keep_copy(here, f"file://{moved}")
    copy = LocalCopy.of(here)
    assert copy is not None and copy.url == f"file://{moved}"
    value = json.loads((moved / "manifest.json").read_text())
    value["header"]["steps"] = 6
    (tmp_path / "other").mkdir()
    (tmp_path / "other/manifest.json").write_text(json.dumps(value))
    with pytest.raises(UserError, match=r"holds another collection; choose another name"):
        keep_copy(here, f"file://{tmp_path / 'other'}")


def test_a_kill_before_the_manifest_is_in_place_is_mended_by_the_next_run(origin, here):
    keep_copy(here, f"file://{origin}")
    (here / "manifest.json").unlink()
    assert keep_copy(here, f"file://{origin}") == Manifest.load(origin)
