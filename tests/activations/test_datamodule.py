import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor

from diffusae.activations.batches import ShuffledBatches
from diffusae.errors import UserError
from small_collections import data_of


def epoch_of(loader, epoch: int) -> list[Tensor]:
    loader.set_epoch(epoch)
    return list(loader)


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def all_rows(batches: list[Tensor]) -> list[list[float]]:
    return sorted(torch.cat(batches).tolist())


def test_sizes_are_those_of_the_stream(collection):
    data = data_of(collection[0])
    assert (data.d_in, data.grid, data.vectors("train"), data.vectors("validation")) == (
        4,
        (2, 3),
        36,
        18,
    )
    assert (len(data.train_dataloader()), len(data.val_dataloader())) == (8, 4)


def test_an_epoch_holds_every_vector_once_and_the_next_in_another_order(collection, record):
    loader = data_of(collection[0]).train_dataloader()
    first, second = epoch_of(loader, 0), epoch_of(loader, 1)
    written = np.concatenate(
        [record(n).updates["mid/t0.50/cond"].astype(np.float16) for n in range(6)]
    )
    assert all_rows(first) == all_rows(second) == sorted(written.astype(np.float32).tolist())
    assert not same(first, second)
    assert same(first, epoch_of(data_of(collection[0]).train_dataloader(), 0))


def test_validation_batches_keep_the_order_of_the_shards(collection, record):
    written = np.concatenate(
        [record(n).updates["mid/t0.50/cond"].astype(np.float16) for n in range(6, 9)]
    )
    stored = torch.cat(list(data_of(collection[0]).val_dataloader()))
    np.testing.assert_array_equal(stored.numpy(), written.astype(np.float32))


@pytest.mark.parametrize("reader", ["mapped", "webdataset"])
def test_the_first_batch_is_shown_beforehand_and_given_in_its_turn(collection, reader):
    data = data_of(collection[0], reader=reader)
    shown = data.first_batch()
    loader = data.train_dataloader()
    assert isinstance(loader, ShuffledBatches)
    assert loader.state_dict()["batches"] == 0
    # Processes get copies of the loader, and would write their batches into the same memory.
    assert not loader._recycled._free
    given = epoch_of(loader, 0)
    assert torch.equal(shown, given[0])
    assert same(given, epoch_of(data_of(collection[0]).train_dataloader(), 0))
    assert torch.equal(data.first_batch(), shown)  # also after the epoch


def test_the_first_batch_is_the_whole_one_whatever_part_of_it_a_rank_gets(collection):
    data = data_of(collection[0], batch_size=4)
    whole = data.first_batch()
    data.train_dataloader().share(1, 2)
    assert torch.equal(data.first_batch(), whole)


@pytest.mark.parametrize("given", [0, 1, 4, 7])
def test_a_restored_loader_goes_on_with_the_next_batch(collection, given: int):
    whole = epoch_of(data_of(collection[0]).train_dataloader(), 3)
    interrupted = data_of(collection[0]).train_dataloader()
    interrupted.set_epoch(3)
    batches = iter(interrupted)
    for _ in range(given):
        next(batches)
    resumed = data_of(collection[0]).train_dataloader()
    resumed.load_state_dict(interrupted.state_dict())
    assert resumed.state_dict() == interrupted.state_dict()
    resumed.set_epoch(3)
    assert same(list(resumed), whole[given:])
    resumed.set_epoch(4)
    assert same(list(resumed), epoch_of(interrupted, 4))


def test_batches_to_skip_are_those_of_the_saved_epoch_and_of_no_other(collection):
    saved = data_of(collection[0]).train_dataloader()
    saved.set_epoch(3)
    next(iter(saved))
    resumed = data_of(collection[0]).train_dataloader()
    resumed.load_state_dict(saved.state_dict())
    assert same(epoch_of(resumed, 5), epoch_of(data_of(collection[0]).train_dataloader(), 5))


def test_the_state_after_a_whole_epoch_is_the_start_of_the_next(collection):
    loader = data_of(collection[0]).train_dataloader()
    epoch_of(loader, 2)
    state = loader.state_dict()
    assert (state["epoch"], state["batches"]) == (3, 0)


def test_a_state_saved_with_another_seed_or_batch_size_is_refused(collection):
    state = data_of(collection[0]).train_dataloader().state_dict()
    with pytest.raises(UserError, match="seed 7 -> 8; batch_size 5 -> 6"):
        data_of(collection[0], seed=8, batch_size=6).train_dataloader().load_state_dict(state)


def test_a_short_last_batch_can_be_dropped_and_the_length_says_so(collection):
    loader = data_of(collection[0], drop_last=True).train_dataloader()
    dropped = epoch_of(loader, 0)
    assert len(loader) == len(dropped) == 7
    assert same(dropped, epoch_of(data_of(collection[0]).train_dataloader(), 0)[:7])
    with pytest.raises(UserError, match="has 36 vectors, less than a batch"):
        data_of(collection[0], drop_last=True, batch_size=37, buffer_vectors=37)


def test_a_buffer_beyond_the_set_changes_neither_order_nor_memory(collection):
    once, more = (data_of(collection[0], buffer_vectors=n).train_dataloader() for n in (40, 10**12))
    assert same(epoch_of(once, 0), epoch_of(more, 0))


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("reader", ["mapped", "webdataset"])
def test_the_batches_are_the_same_with_any_reader_and_any_number_of_workers(
    collection, reader, workers
):
    plain = data_of(collection[0]).train_dataloader()
    other = data_of(collection[0], reader=reader, workers=workers).train_dataloader()
    for epoch in (0, 1):
        assert same(epoch_of(plain, epoch), epoch_of(other, epoch))


@pytest.mark.parametrize("given", [0, 1, 3, 6])
def test_workers_resume_where_a_single_process_stopped(collection, given):
    plain = data_of(collection[0]).train_dataloader()
    whole = epoch_of(plain, 0)
    state = {**plain.state_dict(), "epoch": 0, "batches": given}
    for reader, workers in (("mapped", 2), ("webdataset", 0)):
        resumed = data_of(collection[0], reader=reader, workers=workers).train_dataloader()
        resumed.load_state_dict(state)
        assert same(list(resumed), whole[given:])


def test_a_worker_outlives_the_sigterm_that_a_scheduler_sends_to_every_process(collection):
    whole = epoch_of(data_of(collection[0]).train_dataloader(), 0)
    batches = iter(data_of(collection[0], workers=1).train_dataloader())
    first = next(batches)
    (worker,) = multiprocessing.active_children()
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGTERM)
    assert same([first, *batches], whole)


@pytest.mark.parametrize(("reader", "workers"), [("mapped", 0), ("webdataset", 0), ("mapped", 3)])
def test_two_ranks_see_each_vector_once_an_epoch(collection, reader, workers):
    """Two ranks with three workers are more processes than shards."""
    whole = epoch_of(data_of(collection[0], batch_size=4).train_dataloader(), 0)
    ranks = []
    for rank in range(2):
        loader = data_of(
            collection[0], batch_size=4, reader=reader, workers=workers
        ).train_dataloader()
        loader.share(rank, 2)
        ranks.append(epoch_of(loader, 0))
    for batch, *parts in zip(whole, *ranks, strict=True):
        assert [len(part) for part in parts] == [2, 2]
        assert all_rows(list(parts)) == all_rows([batch])


def test_an_unknown_reader_lists_the_known_ones(collection):
    with pytest.raises(UserError, match="unknown reader 'tar'; known: mapped, webdataset"):
        data_of(collection[0], reader="tar")


class Recorder(pl.LightningModule):
    """Keeps its training batches, and can stop as if it were killed."""

    def __init__(self, die_after: int | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(4))
        self.seen: list[Tensor] = []
        self.die_after = die_after

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        if self.die_after is not None and len(self.seen) == self.die_after:
            raise KeyboardInterrupt
        self.seen.append(batch.clone())
        return ((batch - self.weight) ** 2).mean()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        assert batch.shape[1] == 4

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.1)


def fit(root: Path, model: Recorder, folder: Path, resume: Path | None = None) -> None:
    saver = ModelCheckpoint(dirpath=folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    trainer = pl.Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        callbacks=[saver],
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(
        model, datamodule=data_of(root), ckpt_path=resume, weights_only=False if resume else None
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("steps", [3, 8, 13, 16])
def test_a_training_resumed_by_lightning_sees_the_batches_of_an_uninterrupted_one(
    collection, tmp_path, steps: int
):
    """Eight batches per epoch; resumed in the first and second epoch, and at both epochs' ends."""
    root, _ = collection
    whole = Recorder()
    fit(root, whole, tmp_path / "whole")
    assert len(whole.seen) == 24
    resumed = Recorder()
    fit(root, resumed, tmp_path / "resumed", resume=tmp_path / "whole" / f"step={steps}.ckpt")
    assert same(resumed.seen, whole.seen[steps:])
    assert torch.equal(resumed.weight, whole.weight)


def test_damaged_shards_are_refused_before_the_first_batch_unless_told_otherwise(collection):
    root, _ = collection
    path = root / "mid/t0.50/cond/shard-000000.tar"
    data = bytearray(path.read_bytes())
    data[-20] ^= 1  # in the padding at the end, where no reader would notice
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"shard-000000.tar: hash"):
        data_of(root).prepare_data()
    data_of(root, verify=False).prepare_data()
    data_of(root, block="up", t=1.0, conditioning="uncond").prepare_data()


def test_a_split_that_is_not_there_is_refused_at_once(collection):
    with pytest.raises(UserError, match="unknown split 'dev'; known: train, validation"):
        data_of(collection[0], validation_split="dev")
