"""Two streams read beside each other: the same pictures and positions, in the same order."""

from pathlib import Path

import numpy as np
import pytest
import torch

from diffusae.activations.subsampling import Subsampling
from diffusae.activations.together import TogetherBatches
from diffusae.activations.writer import ActivationWriter
from diffusae.errors import UserError
from small_collections import data_of, sample_of, stream_of

MID, OUT = stream_of((2, 3), 3), stream_of((2, 3), 2, block="out")


def names(picture: int, positions: int, width: int, sign: int) -> np.ndarray:
    """Vectors that name their picture and position, in both streams and with unlike signs."""
    of = 100 * picture + np.arange(positions)[:, None]
    return (sign * of * np.ones((1, width))).astype(np.float32)


@pytest.fixture(scope="module", params=[None, 4], ids=["whole", "thinned"])
def root(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pairs")
    thin = Subsampling(splits=("train",), positions_per_image=4, seed=3) if request.param else None
    writer = ActivationWriter(
        root, streams=[MID, OUT], header={"model": "toy"}, with_images=False, subsampling=thin
    )
    count = 0
    for index, (split, size) in enumerate([("train", 3), ("train", 2), ("validation", 3)]):
        samples = []
        for _ in range(size):
            count += 1
            updates = {MID.folder: names(count, 6, 3, 1), OUT.folder: names(count, 6, 2, -1)}
            samples.append(sample_of(f"p{count}", count, split, updates))
        writer.write_group(index, samples)
    writer.finish()
    return root


@pytest.mark.parametrize("reader", ["mapped", "webdataset"])
def test_every_vector_stands_beside_that_of_its_picture_and_position_in_the_order_of_the_input(
    root, reader
):
    both, alone = data_of(root, target="out", reader=reader), data_of(root, reader=reader)
    assert (both.d_in, both.d_target, alone.d_target) == (3, 2, None)
    for epoch in (0, 1):
        for loaded in (both.train_dataloader(), alone.train_dataloader()):
            loaded.set_epoch(epoch)
        batches, inputs = list(both.train_dataloader()), list(alone.train_dataloader())
        assert len(batches) == both.batches_of_epoch == len(inputs)
        for pair, own in zip(batches, inputs, strict=True):
            assert torch.equal(pair[:, :3], own)
            assert torch.equal(pair[:, 3:], -own[:, :2])
    whole = torch.cat(list(both.val_dataloader()))
    assert len(whole) == 18 == len(torch.cat(list(alone.val_dataloader())))
    assert torch.equal(whole[:, 3:], -whole[:, :2])
    assert torch.equal(both.first_batch()[:, :3], alone.first_batch())


def test_a_pass_goes_on_at_the_next_pair(root):
    whole = list(data_of(root, target="out").train_dataloader())
    begun = data_of(root, target="out").train_dataloader()
    reading = iter(begun)
    taken = [next(reading) for _ in range(2)]
    resumed = data_of(root, target="out").train_dataloader()
    resumed.load_state_dict(begun.state_dict())
    for found, expected in zip([*taken, *resumed], whole, strict=True):
        assert torch.equal(found, expected)


def test_pairs_are_read_beside_other_streams_from_epoch_to_epoch(root):
    streams = {
        "pair": data_of(root, target="out").train_dataloader(),
        "mid": data_of(root).train_dataloader(),
    }
    steps = 2 * len(streams["mid"]) + 1
    batches = list(TogetherBatches(streams, steps=steps))
    assert len(batches) == steps
    assert all(torch.equal(one["pair"][:, :3], one["mid"]) for one in batches)


def test_several_ranks_share_every_pair(root):
    options = {"batch_size": 4, "buffer_vectors": 12, "target": "out"}
    alone = list(data_of(root, **options).train_dataloader())
    parts = []
    for rank in range(2):
        loader = data_of(root, **options).train_dataloader()
        loader.share(rank, 2)
        parts.append(list(loader))
    for whole, first, second in zip(alone, *parts, strict=True):
        both = torch.cat([first, second])
        assert sorted(both[:, 0].tolist()) == sorted(whole[:, 0].tolist())
        assert torch.equal(both[:, 3:], -both[:, :2])


def test_a_target_with_other_positions_or_the_stream_itself_is_refused(tmp_path):
    streams = [MID, stream_of((1, 3), 2, block="out")]
    writer = ActivationWriter(tmp_path, streams=streams, header={"model": "toy"}, with_images=False)
    for index, split in enumerate(("train", "validation")):
        updates = {one.folder: np.ones((one.positions, one.d_in), np.float32) for one in streams}
        writer.write_group(index, [sample_of(f"p{index}", 0, split, updates)])
    writer.finish()
    with pytest.raises(UserError, match=r"out/t0.50/cond \(1 x 3 positions\) must be another"):
        data_of(tmp_path, target="out")
    with pytest.raises(UserError, match="must be another stream"):
        data_of(tmp_path, target="mid")
