"""Thinned training splits: the kept positions, and that all readers get their vectors."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from diffusae.activations.manifest import Manifest
from diffusae.activations.reader import load_updates, read_updates
from diffusae.activations.subsampling import Subsampling, most_positions
from diffusae.activations.writer import ActivationWriter
from diffusae.errors import UserError
from diffusae.files import sha256_of
from small_collections import data_of

THINNED = Subsampling(splits=("train",), positions_per_image=4, seed=3)


def collect(
    root: Path, streams, record, *, group_size: int, subsampling: Subsampling | None
) -> Manifest:
    """Six training pictures and three for validation."""
    writer = ActivationWriter(
        root, streams=streams, header={"model": "toy"}, subsampling=subsampling
    )
    index = 0
    for split, numbers in (("train", range(6)), ("validation", range(6, 9))):
        for start in range(0, len(numbers), group_size):
            writer.write_group(
                index, [record(n, split) for n in numbers[start : start + group_size]]
            )
            index += 1
    return writer.finish()


@pytest.fixture
def thinned(tmp_path, streams, record) -> tuple[Path, Manifest]:
    root = tmp_path / "thinned"
    return root, collect(root, streams, record, group_size=2, subsampling=THINNED)


def test_positions_are_drawn_without_replacement_from_seed_and_picture_alone():
    drawn = THINNED.draw("a", 64)
    assert len(set(drawn.tolist())) == 4
    assert drawn.tolist() == sorted(drawn.tolist())
    np.testing.assert_array_equal(drawn, THINNED.draw("a", 64))
    assert drawn.tolist() != THINNED.draw("b", 64).tolist()
    other = Subsampling(splits=("train",), positions_per_image=4, seed=4)
    assert drawn.tolist() != other.draw("a", 64).tolist()


def test_the_draw_is_the_documented_hash():
    least = sorted(range(64), key=lambda p: hashlib.sha256(f"3/a/{p}".encode()).digest())[:4]
    assert THINNED.draw("a", 64).tolist() == sorted(least)


def test_fewer_positions_are_a_part_of_more():
    more = Subsampling(splits=("train",), positions_per_image=9, seed=3)
    assert set(THINNED.draw("a", 64).tolist()) < set(more.draw("a", 64).tolist())


def test_every_place_is_kept_about_equally_often():
    counts = np.bincount(
        np.concatenate([THINNED.draw(str(n), 16) for n in range(2000)]), minlength=16
    )
    assert abs(counts - 500).max() < 5 * np.sqrt(2000 * 0.25 * 0.75)


@pytest.mark.parametrize(
    ("positions_per_image", "max_vectors", "most"),
    [
        (None, None, None),
        (5, None, 5),
        (None, 100, 10),
        (None, 109, 10),
        (5, 100, 5),
        (20, 100, 10),
    ],
)
def test_the_cap_is_shared_equally_and_the_stricter_limit_holds(
    positions_per_image, max_vectors, most
):
    assert (
        most_positions(positions_per_image=positions_per_image, max_vectors=max_vectors, images=10)
        == most
    )


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (
            {"positions_per_image": 0, "max_vectors": None},
            "positions_per_image=0 must be at least 1",
        ),
        (
            {"positions_per_image": None, "max_vectors": 9},
            "max_vectors=9 is below the 10 training pictures",
        ),
    ],
)
def test_limits_that_leave_a_picture_empty_are_refused(limits, message):
    with pytest.raises(UserError, match=message):
        most_positions(images=10, **limits)


def test_each_kept_vector_is_the_whole_collections_at_that_position(
    thinned, tmp_path, streams, record
):
    root, manifest = thinned
    whole = tmp_path / "whole"
    everything = collect(whole, streams, record, group_size=2, subsampling=None)
    for stream in streams:
        full = {s.image_id: s.updates for s in read_updates(whole, everything, stream, "train")}
        for sample in read_updates(root, manifest, stream, "train"):
            assert len(sample.updates) == min(4, stream.positions)
            positions = sample.meta.get("positions", range(stream.positions))
            np.testing.assert_array_equal(sample.updates, full[sample.image_id][positions])


def test_positions_do_not_depend_on_the_size_of_groups(thinned, tmp_path, streams, record):
    root, manifest = thinned
    other = tmp_path / "other"
    regrouped = collect(other, streams, record, group_size=5, subsampling=THINNED)
    ids, updates = load_updates(root, manifest, streams[0], "train")
    other_ids, other_updates = load_updates(other, regrouped, streams[0], "train")
    assert ids == other_ids
    np.testing.assert_array_equal(updates, other_updates)


def test_other_splits_keep_their_whole_grids_byte_for_byte(thinned, tmp_path, streams, record):
    whole = tmp_path / "whole"
    everything = collect(whole, streams, record, group_size=2, subsampling=None)
    validation = [shard.path for shard in everything.entries if shard.split == "validation"]
    assert validation
    for path in validation:
        assert sha256_of(whole / path) == sha256_of(thinned[0] / path)
    # A grid that has no more positions than are kept is not touched either: up has two.
    assert all(
        sha256_of(whole / p) == sha256_of(thinned[0] / p)
        for p in ["up/t1.00/uncond/shard-000000.tar"]
    )


def test_the_manifest_counts_what_is_stored_and_reads_back(thinned, streams):
    root, manifest = thinned
    mid, up = streams
    assert Manifest.load(root) == manifest
    assert manifest.subsampling == THINNED
    assert (manifest.positions(mid, "train"), manifest.positions(mid, "validation")) == (4, 6)
    assert (manifest.vectors(mid, "train"), manifest.vectors(mid, "validation")) == (6 * 4, 3 * 6)
    assert manifest.vectors(up, "train") == 6 * 2


def test_a_collection_that_keeps_all_says_nothing_of_subsampling(collection):
    root, manifest = collection
    assert manifest.subsampling is None
    assert "subsampling" not in (root / "manifest.json").read_text()
    assert "subsampling" not in (root / "groups" / "collection.json").read_text()


@pytest.mark.parametrize("workers", [0, 2])
def test_both_readers_give_every_kept_vector_once_in_the_same_batches(thinned, workers):
    root, manifest = thinned
    stored = np.concatenate(
        [s.updates for s in read_updates(root, manifest, manifest.streams[0], "train")]
    )
    epochs = []
    for reader in ("mapped", "webdataset"):
        data = data_of(root, reader=reader, workers=workers)
        epochs.append(list(data.train_dataloader()))
        assert len(data.val_dataloader()) == 4
        assert sum(len(batch) for batch in data.val_dataloader()) == 18
    mapped, streamed = epochs
    assert len(mapped) == len(streamed) == 5
    assert all(torch.equal(a, b) for a, b in zip(mapped, streamed, strict=True))
    assert sorted(torch.cat(mapped).tolist()) == sorted(stored.astype(np.float32).tolist())


def test_another_subsampling_in_the_same_directory_is_refused_with_the_difference(thinned, streams):
    other = Subsampling(splits=("train",), positions_per_image=5, seed=3)
    with pytest.raises(UserError, match=r"subsampling.positions_per_image: 4 -> 5"):
        ActivationWriter(thinned[0], streams=streams, header={"model": "toy"}, subsampling=other)
