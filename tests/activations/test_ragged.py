"""Collections whose samples differ in length: one vector per token, texts of different lengths."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diffusae.activations.batches import SequentialBatches
from diffusae.activations.datamodule import ActivationDataModule
from diffusae.activations.manifest import Manifest
from diffusae.activations.reader import load_updates, read_updates, verify
from diffusae.activations.schema import CollectedSample
from diffusae.activations.subsampling import Subsampling
from diffusae.activations.writer import ActivationWriter
from diffusae.errors import UserError
from small_collections import stream_of

STREAM = stream_of((1, 9), 4, block="text_1", t=1.0)
LENGTHS = [3, 1, 9, 5, 2, 7, 4, 6]


def text(n: int, split: str = "train", first: int = 0) -> CollectedSample:
    """Text number n: row i of it holds 100 n + i."""
    length = LENGTHS[n % len(LENGTHS)]
    updates = np.repeat(100.0 * n + np.arange(length)[:, None], STREAM.d_in, axis=1).astype(
        np.float32
    )
    return CollectedSample(
        image_id=f"{n:06d}",
        prompt=f"text {n}",
        seed=n,
        split=split,
        updates={STREAM.folder: updates},
        positions={STREAM.folder: list(range(first, first + length))},
    )


def collected(root: Path, **options: Any) -> Manifest:
    """Two training groups of three texts, and a validation group of two."""
    writer = ActivationWriter(
        root, streams=[STREAM], header={}, with_images=False, ragged=True, **options
    )
    for index, (split, numbers) in enumerate(
        [("train", range(3)), ("train", range(3, 6)), ("validation", (6, 7))]
    ):
        writer.write_group(index, [text(n, split) for n in numbers])
    return writer.finish()


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return collected(tmp_path)


def data(root: Path, **options: object) -> ActivationDataModule:
    chosen = {"batch_size": 4, "buffer_vectors": 8, "seed": 3} | options
    return ActivationDataModule(root, block="text_1", t=1.0, conditioning="cond", **chosen)  # type: ignore[arg-type]


def numbers(batches: list[torch.Tensor]) -> list[float]:
    return [float(value) for batch in batches for value in batch[:, 0]]


def test_shards_count_their_vectors_and_samples_name_their_positions(
    tmp_path: Path, manifest: Manifest
) -> None:
    assert [(shard.samples, shard.vectors) for shard in manifest.entries] == [
        (3, 13),
        (3, 14),
        (2, 10),
    ]
    assert manifest.vectors(STREAM, "train") == 27 and manifest.vectors(STREAM, "validation") == 10
    assert Manifest.load(tmp_path) == manifest and manifest.ragged
    samples = list(read_updates(tmp_path, manifest, STREAM, "train"))
    assert [len(sample.updates) for sample in samples] == LENGTHS[:6]
    assert samples[3].meta["positions"] == [0, 1, 2, 3, 4]
    assert samples[3].updates[:, 0].tolist() == [300, 301, 302, 303, 304]


@pytest.mark.parametrize("reader", ["mapped", "webdataset"])
def test_an_epoch_has_each_vector_once_in_another_order_each_epoch(
    tmp_path: Path, manifest: Manifest, reader: str
) -> None:
    loader = data(tmp_path, reader=reader).train_dataloader()
    expected = [100.0 * n + i for n in range(6) for i in range(LENGTHS[n])]
    first = numbers(list(loader))
    loader.set_epoch(1)
    second = numbers(list(loader))
    assert sorted(first) == sorted(second) == expected
    assert first != second and len(loader) == 7


def test_both_readers_and_workers_give_the_same_batches(tmp_path: Path, manifest: Manifest) -> None:
    mapped, streamed, worked = (
        numbers(list(data(tmp_path, **options).train_dataloader()))
        for options in ({"reader": "mapped"}, {"reader": "webdataset"}, {"workers": 1})
    )
    assert mapped == streamed == worked


def test_a_resumed_pass_goes_on_where_it_was(tmp_path: Path, manifest: Manifest) -> None:
    whole = numbers(list(data(tmp_path).train_dataloader()))
    loader = data(tmp_path).train_dataloader()
    batches = iter(loader)
    begun = [next(batches).clone() for _ in range(3)]
    resumed = data(tmp_path).train_dataloader()
    resumed.load_state_dict(loader.state_dict())
    assert numbers(begun) + numbers(list(resumed)) == whole


def test_validation_comes_in_the_order_of_the_texts(tmp_path: Path, manifest: Manifest) -> None:
    batches = SequentialBatches(
        tmp_path, manifest=manifest, stream=STREAM, split="validation", batch_size=4
    )
    assert numbers(list(batches)) == [600, 601, 602, 603, 700, 701, 702, 703, 704, 705]
    assert len(batches) == 3


def test_thinned_texts_keep_some_of_their_own_tokens(tmp_path: Path) -> None:
    thinned = Subsampling(splits=("train",), positions_per_image=4, seed=1)
    manifest = collected(tmp_path, subsampling=thinned)
    for sample in read_updates(tmp_path, manifest, STREAM, "train"):
        length = LENGTHS[int(sample.image_id)]
        kept = sample.meta["positions"]
        assert len(kept) == min(4, length) == len(sample.updates)
        assert sample.updates[:, 0].tolist() == [
            100 * int(sample.image_id) + position for position in kept
        ]
    assert manifest.vectors(STREAM, "train") == sum(min(4, length) for length in LENGTHS[:6])
    assert manifest.vectors(STREAM, "validation") == 10
    assert sorted(numbers(list(data(tmp_path).train_dataloader())))[:3] == [0, 1, 2]


def test_a_killed_collection_goes_on_and_is_the_same(tmp_path: Path) -> None:
    collected(tmp_path / "whole")
    writer = ActivationWriter(
        tmp_path / "killed", streams=[STREAM], header={}, with_images=False, ragged=True
    )
    writer.write_group(0, [text(n) for n in range(3)])
    again = ActivationWriter.reopen(tmp_path / "killed")
    assert again.ragged and again.missing_groups(3) == [1, 2]
    collected(tmp_path / "killed")
    files = [
        {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for root in (tmp_path / "whole", tmp_path / "killed")
    ]
    assert files[0] == files[1]


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ([0, 1], "shape"),
        ([2, 1, 0], "ascending"),
        ([0, 0, 1], "ascending"),
        ([7, 8, 9], "from 0 to 8"),
        (None, "at least one"),
    ],
)
def test_positions_that_do_not_fit_are_refused(
    tmp_path: Path, positions: list[int] | None, message: str
) -> None:
    record = text(0)
    record = CollectedSample(
        image_id="0", prompt="", seed=0, split="train", updates=record.updates,
        positions=None if positions is None else {STREAM.folder: positions},
    )  # fmt: skip
    writer = ActivationWriter(tmp_path, streams=[STREAM], header={}, with_images=False, ragged=True)
    with pytest.raises(UserError, match=message):
        writer.write_group(0, [record])


def test_a_shard_with_other_vectors_than_the_manifest_says_is_refused(
    tmp_path: Path, manifest: Manifest
) -> None:
    path = tmp_path / "manifest.json"
    value = json.loads(path.read_text())
    value["shards"][0]["vectors"] = 12
    path.write_text(json.dumps(value))
    assert not verify(tmp_path, Manifest.load(tmp_path))
    with pytest.raises(UserError, match="has 13 vectors, expected 12"):
        list(data(tmp_path).train_dataloader())


def test_texts_make_no_array(tmp_path: Path, manifest: Manifest) -> None:
    with pytest.raises(UserError, match="differ in length"):
        load_updates(tmp_path, manifest, STREAM, "train")


def test_collections_of_whole_grids_say_nothing_of_it(
    collection: tuple[Path, Manifest], record: Callable[..., CollectedSample]
) -> None:
    root, manifest = collection
    written = json.loads((root / "manifest.json").read_text())
    assert "ragged" not in written and all("vectors" not in shard for shard in written["shards"])
    journal = json.loads((root / "groups" / "000000.json").read_text())
    assert all("vectors" not in shard for shard in journal["shards"].values())
    assert "ragged" not in json.loads((root / "groups" / "collection.json").read_text())
    assert manifest.entries[0].units == manifest.entries[0].samples
