"""Updates as float16, bfloat16 and float32: stored bits, readers' values, and overflow."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from diffusae.activations.manifest import Manifest
from diffusae.activations.reader import load_updates, read_updates
from diffusae.activations.schema import CollectedSample
from diffusae.activations.settings import Reader
from diffusae.activations.stored_numbers import stored_numbers
from diffusae.activations.writer import ActivationWriter
from diffusae.errors import UserError
from small_collections import data_of, sample_of, stream_of

# Odd rows
STREAM = stream_of((2, 3), 5)
NAMES = ("float16", "bfloat16", "float32")


def updates_of(n: int) -> np.ndarray:
    return np.random.default_rng(n).normal(size=(6, 5)).astype(np.float32)


def record(n: int, split: str = "train", updates: np.ndarray | None = None) -> CollectedSample:
    stored = updates_of(n) if updates is None else updates
    return sample_of(f"i{n}", n, split, {STREAM.folder: stored})


def collected(root: Path, dtype: str) -> Manifest:
    writer = ActivationWriter(root, streams=[STREAM], header={}, with_images=False, dtype=dtype)
    writer.write_group(0, [record(n) for n in range(3)])
    writer.write_group(1, [record(n, "validation") for n in range(3, 5)])
    writer.finish()
    assert ActivationWriter.reopen(root).numbers.name == dtype
    return Manifest.load(root)


def expected(n: int, dtype: str) -> np.ndarray:
    return torch.from_numpy(updates_of(n)).to(getattr(torch, dtype)).float().numpy()


def test_a_bfloat16_number_is_stored_as_its_16_bits():
    numbers = stored_numbers("bfloat16")
    encoded = numbers.encode(np.array([1.0, -2.0, 70_000.0, 1e39]))  # 1e39: beyond float32
    assert encoded.dtype == np.uint16 and encoded[:2].tolist() == [0x3F80, 0xC000]
    assert numbers.decode(encoded).tolist() == [1.0, -2.0, 70144.0, np.inf]


@pytest.mark.parametrize("dtype", NAMES)
def test_every_reader_gives_the_rounded_numbers(tmp_path, dtype):
    manifest = collected(tmp_path, dtype)
    for n, sample in enumerate(read_updates(tmp_path, manifest, STREAM, "train")):
        np.testing.assert_array_equal(sample.updates, expected(n, dtype))
    assert load_updates(tmp_path, manifest, STREAM, "train")[1].dtype == manifest.numbers.read
    rows = np.concatenate([expected(n, dtype) for n in range(3)])
    readers: list[tuple[Reader, int]] = [("mapped", 0), ("webdataset", 0), ("mapped", 1)]
    for reader, workers in readers if dtype == "bfloat16" else readers[:2]:
        values = {"batch_size": 4, "buffer_vectors": 8, "reader": reader, "workers": workers}
        data = data_of(tmp_path, **values)
        batches = torch.cat([batch.clone() for batch in data.train_dataloader()])
        assert batches.dtype == torch.float32
        np.testing.assert_array_equal(np.sort(batches.numpy(), axis=0), np.sort(rows, axis=0))
        validation = torch.cat(list(data.val_dataloader()))
        np.testing.assert_array_equal(
            validation, np.concatenate([expected(n, dtype) for n in (3, 4)])
        )


def test_float16_is_named_nowhere_so_that_collections_stay_what_they_were(tmp_path):
    assert "dtype" not in collected(tmp_path, "float16").to_json()
    assert "dtype" not in (tmp_path / "groups/collection.json").read_text()


def test_a_shard_of_another_type_than_the_manifest_says_is_refused(tmp_path):
    collected(tmp_path, "bfloat16")
    path = tmp_path / "manifest.json"
    path.write_text(path.read_text().replace('"dtype": "bfloat16"', '"dtype": "float16"'))
    with pytest.raises(
        UserError, match=r"is uint16 \(6, 5\), the manifest's stream .* is float16 \(6, 5\)"
    ):
        list(read_updates(tmp_path, Manifest.load(tmp_path), STREAM, "train"))


def test_an_unknown_type_lists_the_known(tmp_path):
    with pytest.raises(
        UserError, match=r"unknown activations.dtype 'bfloat61'; .* Did you mean 'bfloat16'"
    ):
        ActivationWriter(tmp_path, streams=[STREAM], header={}, dtype="bfloat61")


def test_a_group_whose_pictures_all_overflow_stops_with_the_block_and_the_type_that_holds_them(
    tmp_path,
):
    large = [record(n, updates=np.full((6, 5), 1e5)) for n in range(2)]
    writer = ActivationWriter(tmp_path / "a", streams=[STREAM], header={}, with_images=False)
    for _ in range(2):  # the same command stops again: the group never counts as finished
        with pytest.raises(
            UserError,
            match=r"all 2 pictures of group 0 .* mid \(2\); .* activations.dtype=bfloat16",
        ):
            writer.write_group(0, large)
        assert writer.finished_groups() == {}
    wide = ActivationWriter(
        tmp_path / "b", streams=[STREAM], header={}, with_images=False, dtype="bfloat16"
    )
    assert wide.write_group(0, large).count == 2


def test_a_group_that_the_model_itself_gives_as_nan_names_the_models_type(tmp_path):
    writer = ActivationWriter(tmp_path, streams=[STREAM], header={}, with_images=False)
    with pytest.raises(UserError, match=r"the model itself gives them so; set model.dtype=float32"):
        writer.write_group(0, [record(n, updates=np.full((6, 5), np.nan)) for n in range(2)])


def test_the_share_of_rejected_pictures_is_told_at_the_end(tmp_path, caplog):
    writer = ActivationWriter(tmp_path, streams=[STREAM], header={}, with_images=False)
    writer.write_group(
        0, [record(0), record(1, updates=np.full((6, 5), 1e5)), record(2), record(3)]
    )
    with caplog.at_level(logging.WARNING):
        writer.finish()
    assert (
        "1 of 4 samples of split train (25 %) are rejected: an update is not finite in float16"
        in caplog.text
    )
