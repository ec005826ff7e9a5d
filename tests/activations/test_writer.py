import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from diffusae.activations import hashed_tar
from diffusae.activations.manifest import Manifest
from diffusae.activations.reader import read_images, read_updates, verify
from diffusae.activations.writer import ActivationWriter
from diffusae.errors import UserError


def test_a_shard_holds_npy_and_json_members_under_the_images_id(collection):
    root, _ = collection
    with tarfile.open(root / "mid/t0.50/cond/shard-000000.tar") as tar:
        assert tar.getnames() == [f"img{n:04d}.{ext}" for n in range(3) for ext in ("json", "npy")]
        member = tar.extractfile("img0001.json")
        assert member is not None
        assert json.loads(member.read()) == {
            "prompt": "picture 1",
            "seed": 1,
            "split": "train",
            "noun": "cat",
        }


def test_journal_and_manifest_hashes_are_those_of_the_files(collection):
    root, manifest = collection
    for shard in manifest.entries:
        data = (root / shard.path).read_bytes()
        assert (shard.bytes, shard.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    journal = json.loads((root / "groups/000002.json").read_text())
    assert (journal["split"], journal["count"], journal["rejected"]) == ("validation", 3, [])
    assert journal["shards"]["images/shard-000002.tar"]["samples"] == 3


def test_equal_records_give_equal_bytes(writer, record):
    first = writer().write_group(0, [record(0)])
    assert writer().write_group(0, [record(0)]) == first


def test_a_group_may_leave_a_stream_out_and_the_manifest_counts_nothing_there(
    writer, record, streams
):
    mid, up = streams
    made = writer()
    thin = replace(record(0), updates={mid.folder: record(0).updates[mid.folder]})
    made.write_group(0, [thin], leave_out=[up.folder])
    made.write_group(1, [record(1, "test")])
    assert list(made.finished_groups()) == [0, 1]
    manifest = made.finish()
    assert manifest.shards(up.folder, "train") == ()
    assert (manifest.vectors(up, "train"), manifest.vectors(up, "test")) == (0, 2)
    assert manifest.vectors(mid, "train") == 6
    assert verify(made.root, manifest) == []
    assert [sample.image_id for sample in read_updates(made.root, manifest, up, "test")] == [
        "img0001"
    ]
    with pytest.raises(UserError, match="give exactly these"):
        made.write_group(2, [record(2)], leave_out=[up.folder])


def test_finished_groups_survive_a_new_writer_and_cut_ones_do_not(collection, writer):
    root, _ = collection
    with open(root / "up/t1.00/uncond/shard-000001.tar", "r+b") as file:
        file.truncate(700)
    (root / "groups/000002.json").write_text("{")
    assert list(writer().finished_groups()) == [0]


def test_a_group_that_is_written_again_withdraws_manifest_and_journal_first(
    collection, writer, record
):
    root, _ = collection

    def dies():
        yield record(3)
        raise RuntimeError("died")

    with pytest.raises(RuntimeError):
        writer().write_group(1, dies())
    assert not (root / "manifest.json").exists()
    assert list(writer().finished_groups()) == [0, 2]
    assert not list(root.rglob("*.partial"))
    with pytest.raises(UserError, match=r"groups \[1\] .* not finished"):
        writer().finish()


KILLED_WRITER = """
import os, signal, sys
import numpy as np
from diffusae.activations.schema import CollectedSample, Stream
from diffusae.activations.writer import ActivationWriter

stream = Stream(block="mid", t=0.0, conditioning="cond", hookpoint="h", step_index=4, timestep=1,
                grid=(64, 64), d_in=8)

def records(index, die):
    for n in range(3):
        if die and n == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        updates = {stream.folder: np.full((4096, 8), index, dtype=np.float32)}
        name = f"g{index}n{n}"
        yield CollectedSample(image_id=name, prompt="p", seed=n, split="train", updates=updates)

writer = ActivationWriter(sys.argv[1], streams=[stream], header={}, with_images=False)
print("finished before:", sorted(writer.finished_groups()))
for index in range(3):
    if index not in writer.finished_groups():
        writer.write_group(index, records(index, die=sys.argv[2] == str(index)))
        print("wrote", index)
writer.finish()
"""


def test_a_writer_killed_in_mid_group_leaves_only_temporaries_and_the_next_redoes_that_group_alone(
    tmp_path: Path,
):
    root = tmp_path / "activations"
    source = str(Path(hashed_tar.__file__).parents[2])

    def run(die: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-u", "-c", KILLED_WRITER, str(root), die],
            env={**os.environ, "PYTHONPATH": source},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    assert run("1").returncode == -signal.SIGKILL
    shards = sorted(path.name for path in (root / "mid/t0.00/cond").iterdir())
    assert shards[0] == "shard-000000.tar"
    assert len(shards) == 2
    assert shards[1].startswith("shard-000001.tar.")
    assert shards[1].endswith(".partial")
    assert (root / "mid/t0.00/cond" / shards[1]).stat().st_size > 0
    assert not (root / "manifest.json").exists()

    again = run("none")
    assert again.stdout.split("\n")[:3] == ["finished before: [0]", "wrote 1", "wrote 2"]
    assert not list(root.rglob("*.partial"))
    manifest = Manifest.load(root)
    samples = list(read_updates(root, manifest, manifest.streams[0], "train"))
    assert [float(sample.updates[0, 0]) for sample in samples] == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_the_temporary_of_a_writer_that_still_runs_is_left_alone(collection, writer):
    root, _ = collection
    theirs = root / f"images/shard-000009.tar.{os.getppid()}.partial"
    theirs.write_bytes(b"at work")
    writer()
    assert theirs.exists()


def test_a_nonfinite_update_rejects_the_image_from_every_stream_and_is_counted(
    writer, record, caplog
):
    broken = record(1)
    broken.updates["up/t1.00/uncond"][0, 0] = 1e6  # finite as float32, infinite as float16
    made = writer()
    group = made.write_group(0, [record(0), broken, record(2)])
    assert group.count == 2
    assert group.rejected == (
        {
            "image_id": "img0001",
            "prompt": "picture 1",
            "seed": 1,
            "nonfinite": [{"block": "up", "t": 1.0, "conditioning": "uncond"}],
        },
    )
    assert all(
        word in caplog.text for word in ("img0001", "'picture 1'", "seed 1", "block up", "t=1.00")
    )
    manifest = made.finish()
    assert manifest.splits["train"] == {"images": 2, "rejected": 1}
    for stream in manifest.streams:
        ids = [sample.image_id for sample in read_updates(made.root, manifest, stream, "train")]
        assert ids == ["img0000", "img0002"]


def test_a_group_that_is_rejected_whole_still_reads(writer, record):
    broken = record(0)
    broken.updates["mid/t0.50/cond"][0, 0] = np.nan
    made = writer()
    made.write_group(0, [broken])
    manifest = made.finish()
    assert list(read_updates(made.root, manifest, manifest.streams[0], "train")) == []


def test_a_finished_group_with_a_turned_bit_is_redone(collection, writer, caplog):
    root, _ = collection
    index, group = next(iter(writer().finished_groups().items()))
    path = root / group.shards[0].path
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert index not in writer().finished_groups()
    assert "missing or damaged" in caplog.text


def test_a_full_disk_stops_cleanly_and_keeps_the_finished_groups(writer, record, monkeypatch):
    made = writer()
    made.write_group(0, [record(0)])
    written = 0
    honest = hashed_tar.HashedTar._write

    def full(self, data: bytes) -> None:
        nonlocal written
        written += len(data)
        if written > 15_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        honest(self, data)

    monkeypatch.setattr(hashed_tar.HashedTar, "_write", full)
    with pytest.raises(
        UserError, match=r"is full: group 1 needs .* MB .* are free; the 1 finished groups are kept"
    ):
        made.write_group(1, (record(n) for n in range(1, 40)))
    monkeypatch.undo()
    assert list(made.finished_groups()) == [0]
    assert not list(made.root.rglob("*.partial"))
    assert not list(made.root.rglob("shard-000001.tar"))


def test_another_collection_in_the_same_place_is_refused_with_the_difference(collection, streams):
    root, _ = collection
    wider = replace(streams[0], d_in=640)
    with pytest.raises(UserError) as caught:
        ActivationWriter(root, streams=[wider, streams[1]], header={"model": "toy", "steps": 50})
    message = str(caught.value)
    assert "header.steps: 5 -> 50" in message
    assert "header.guidance: 4.0 -> (absent)" in message
    assert "streams.mid/t0.50/cond.d_in: 4 -> 640" in message


def test_streams_that_would_share_a_folder_are_refused(tmp_path, streams):
    with pytest.raises(UserError, match="share a folder"):
        ActivationWriter(tmp_path, streams=[streams[0], replace(streams[0], t=0.501)], header={})


def test_a_group_refuses_what_does_not_fit_it(writer, record):
    made = writer()
    good = record(0)
    shape = {**good.updates, "mid/t0.50/cond": np.zeros((6, 3), np.float32)}
    lacking = {"mid/t0.50/cond": good.updates["mid/t0.50/cond"]}
    cases = {
        "has no images": [],
        "group by split": [good, record(1, "validation")],
        "comes twice": [good, good],
        r"has shape \(6, 3\), the stream has \(6, 4\)": [replace(good, updates=shape)],
        "give exactly these": [replace(good, updates=lacking)],
        "is none": [replace(good, image=None)],
        r"is float32 \(6, 8, 3\)": [replace(good, image=np.zeros((6, 8, 3), np.float32))],
        r"has size \(4, 4\)": [good, replace(record(1), image=np.zeros((4, 4, 3), np.uint8))],
        "plain JSON": [replace(good, meta={"score": float("nan")})],
    }
    for message, records in cases.items():
        with pytest.raises(UserError, match=message):
            made.write_group(0, records)
    assert made.finished_groups() == {}


def test_a_group_may_go_without_pictures(writer, record):
    made = writer()
    made.write_group(0, [record(n) for n in range(3)], with_images=False)
    made.write_group(1, [record(n, "test") for n in range(3, 5)])
    manifest = made.finish()
    assert not manifest.shards("images", "train")
    assert [image_id for image_id, *_ in read_images(made.root, manifest, "test")] == [
        "img0003",
        "img0004",
    ]
    assert made.finished_groups().keys() == {0, 1}


def test_a_damaged_description_of_the_collection_names_the_file_to_remove_and_costs_no_group(
    writer, record
):
    made = writer()
    made.write_group(0, [record(0)])
    path = made.root / "groups/collection.json"
    path.write_text(path.read_text()[:-20])
    with pytest.raises(
        UserError, match=r"collection.json is damaged: .*; remove it and run the same command"
    ):
        writer()
    path.unlink()
    assert list(writer().finished_groups()) == [0]
