"""Mapped shards give the same samples as webdataset, and refuse the same faults."""

import io
import tarfile

import numpy as np
import pytest

from diffusae.activations.mapped import MappedShard
from diffusae.activations.reader import read_updates
from diffusae.errors import UserError
from tars import write_tar


def opened(collection, number=0):
    root, manifest = collection
    stream = manifest.stream("mid", 0.5, "cond")
    shard = manifest.shards(stream.folder, "train")[number]
    return MappedShard(root, shard, stream, positions=stream.positions, remedy="collect again")


def rewrite(path, change) -> None:
    """The tar with `change(name, data)` -> [(name, data), ...] applied to every member."""
    with tarfile.open(path) as tar:
        members = [(m.name, tar.extractfile(m).read()) for m in tar]  # type: ignore[union-attr]
    write_tar(path, [pair for member in members for pair in change(*member)])


def npy(array) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_updates_are_those_that_webdataset_reads(collection):
    root, manifest = collection
    stream = manifest.stream("mid", 0.5, "cond")
    samples = list(read_updates(root, manifest, stream, "train"))
    shards = [opened(collection, number) for number in range(2)]
    mapped = [(shard.key(i), shard.updates(i)) for shard in shards for i in range(len(shard))]
    assert [key for key, _ in mapped] == [sample.image_id for sample in samples]
    for (_, updates), sample in zip(mapped, samples, strict=True):
        np.testing.assert_array_equal(updates, sample.updates)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda n, d: [(n.replace(".json", ".pkl"), d)], r"member 'img0000.pkl' is refused"),
        (lambda n, d: [(n, d), (n, d)], "comes twice"),
        (
            lambda n, d: [] if n == "img0001.json" else [(n, d)],
            r"lack their .npy or .json member: \['img0001'\]",
        ),
        (lambda n, d: [] if n.startswith("img0001") else [(n, d)], "it has 2 samples, expected 3"),
        (
            lambda n, d: [(n, npy(np.zeros((6, 5), np.float16)) if n.endswith("npy") else d)],
            r"float16 \(6, 5\)",
        ),
        (
            lambda n, d: [(n, npy(np.zeros((6, 4), np.float32)) if n.endswith("npy") else d)],
            "is float32",
        ),
        (lambda n, d: [(n, b"no array" * 10 if n.endswith("npy") else d)], "cannot be read"),
        (lambda n, d: [(n, d[:140] if n.endswith("npy") else d)], "is cut"),
    ],
)
def test_what_is_not_the_manifests_is_refused_by_name(collection, change, message):
    root, _ = collection
    rewrite(root / "mid/t0.50/cond/shard-000000.tar", change)
    with pytest.raises(UserError, match=f"shard-000000.tar.*{message}"):
        opened(collection)


def test_a_missing_an_empty_and_a_cut_shard_are_refused(collection):
    root, _ = collection
    path = root / "mid/t0.50/cond/shard-000000.tar"
    content = path.read_bytes()
    path.write_bytes(content[:1300])
    with pytest.raises(UserError, match="is cut"):
        opened(collection)
    path.write_bytes(b"")
    with pytest.raises(UserError, match="it is empty"):
        opened(collection)
    path.unlink()
    with pytest.raises(UserError, match="is missing"):
        opened(collection)
