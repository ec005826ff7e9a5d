"""A killed training continues from its checkpoint and ends with the same result."""

import multiprocessing
import os
import signal
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import LambdaCallback
from torch.utils.data import IterableDataset

from command import serve
from diffusae.errors import UserError
from diffusae.runs.checkpoint import Checkpoints, InPlace
from diffusae.runs.lightning_logger import JsonlLogger
from diffusae.runs.metric_log import read_metrics
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.callbacks import MovingAverage
from diffusae.sae.module import SAEModule
from diffusae.sae.sparsity import BatchTopK

STEPS = 14


class Batches(IterableDataset):
    """Five batches per epoch, determined by (epoch, batch), with the state that Lightning saves."""

    def __init__(self) -> None:
        self.epoch, self.given, self.skip = 0, 0, 0

    def __len__(self) -> int:
        return 5

    def __iter__(self):
        self.given, self.skip = self.skip, 0
        while self.given < 5:
            self.given += 1
            yield torch.randn(
                16, 8, generator=torch.Generator().manual_seed(10 * self.epoch + self.given)
            )
        self.epoch += 1

    def state_dict(self):
        return {"epoch": self.epoch + self.given // 5, "given": self.given % 5}

    def load_state_dict(self, state):
        self.epoch, self.skip = state["epoch"], state["given"]


class Fate(pl.Callback):
    """Sends a signal to its own process at the end of a step, after the checkpoint of that step."""

    def __init__(self, step: int, sign: signal.Signals) -> None:
        self.step, self.sign = step, sign

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == self.step:
            os.kill(os.getpid(), self.sign)


def train(directory: Path, fate: Fate | None = None, every: int = 4) -> None:
    """One training in `directory`, resumed if possible. Its final weights go to weights.pt."""
    torch.manual_seed(0)
    sae = SparseAutoencoder(8, 24, BatchTopK(3), seed=1)
    module = SAEModule(
        sae, dead_after_vectors=40, lr=1e-2, warmup_steps=3, decay_steps=4, total_steps=STEPS
    )
    checkpoints = Checkpoints(
        directory / "checkpoints", every=every, logs=[directory / "metrics.jsonl"]
    )
    newest = checkpoints.resume()
    if newest is None:
        module.initialise(torch.randn(64, 8, generator=torch.Generator().manual_seed(99)))
    trainer = pl.Trainer(
        max_steps=STEPS,
        max_epochs=-1,
        accelerator="cpu",
        logger=JsonlLogger(directory / "metrics.jsonl"),
        log_every_n_steps=1,
        callbacks=[MovingAverage(decay=0.9), checkpoints, *([fate] if fate else [])],
        gradient_clip_val=1.0,
        plugins=InPlace(),
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    trainer.fit(module, Batches(), ckpt_path=newest.path if newest else None, weights_only=True)
    torch.save(sae.state_dict(), directory / "weights.pt")


def in_a_process(directory: Path, fate: Fate | None = None) -> int | None:
    serve()
    process = multiprocessing.get_context("forkserver").Process(
        target=train, args=(directory, fate)
    )
    process.start()
    process.join(120)
    return process.exitcode


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    directory = tmp_path_factory.mktemp("whole")
    train(directory)
    return directory


def assert_ends_the_same(directory: Path, other: Path) -> None:
    ours, theirs = (torch.load(d / "weights.pt", weights_only=True) for d in (directory, other))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert read_metrics(directory / "metrics.jsonl") == read_metrics(other / "metrics.jsonl")


def test_a_training_killed_at_several_places_ends_with_the_same_weights_bit_for_bit(
    tmp_path, uninterrupted
):
    # Before the first checkpoint, in mid-epoch, and at an epoch's beginning
    for step in (2, 6, 11):
        assert in_a_process(tmp_path, Fate(step, signal.SIGKILL)) == -signal.SIGKILL
        assert not (tmp_path / "weights.pt").exists()
    assert in_a_process(tmp_path) == 0
    assert_ends_the_same(tmp_path, uninterrupted)


def test_sigterm_leaves_a_checkpoint_of_the_very_step(tmp_path, uninterrupted):
    in_a_process(tmp_path, Fate(6, signal.SIGTERM))
    assert not (tmp_path / "weights.pt").exists()
    checkpoints = Checkpoints(tmp_path / "checkpoints", every=4, logs=[tmp_path / "metrics.jsonl"])
    newest = checkpoints.newest()
    assert newest is not None
    assert newest.step == 7
    train(tmp_path)
    assert_ends_the_same(tmp_path, uninterrupted)


def test_a_digit_that_turned_in_the_metric_log_costs_the_checkpoints_after_it(
    tmp_path, uninterrupted, caplog
):
    assert in_a_process(tmp_path, Fate(10, signal.SIGKILL)) == -signal.SIGKILL
    log = tmp_path / "metrics.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    assert b'"step": 5' in lines[5]  # after the checkpoint of step 4, before that of step 8
    turned = lines[5].replace(b'"step": 5', b'"step": 7')
    log.write_bytes(b"".join([*lines[:5], turned, *lines[6:]]))
    newest = Checkpoints(tmp_path / "checkpoints", every=4, logs=[log]).newest()
    assert newest is not None and newest.step == 4
    assert "metrics.jsonl is damaged" in caplog.text
    log.write_bytes(b"".join([lines[0].replace(b"0", b"1"), *lines[1:]]))
    assert Checkpoints(tmp_path / "checkpoints", every=4, logs=[log]).newest() is None
    train(tmp_path)
    assert_ends_the_same(tmp_path, uninterrupted)


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_used(
    tmp_path, uninterrupted, caplog
):
    assert in_a_process(tmp_path, Fate(10, signal.SIGKILL)) == -signal.SIGKILL
    newest = tmp_path / "checkpoints" / "step-000000008.ckpt"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    latest = Checkpoints(
        tmp_path / "checkpoints", every=4, logs=[tmp_path / "metrics.jsonl"]
    ).newest()
    assert latest is not None
    assert latest.step == 4
    assert "step-000000008.ckpt is damaged" in caplog.text
    train(tmp_path)
    assert_ends_the_same(tmp_path, uninterrupted)


def test_a_step_that_breaks_the_weights_leaves_the_finite_checkpoint_before_it_as_the_newest(
    tmp_path,
):
    module = SAEModule(SparseAutoencoder(8, 24, BatchTopK(3), seed=1), dead_after_vectors=40)
    module.initialise(torch.randn(64, 8, generator=torch.Generator().manual_seed(99)))
    checkpoints = Checkpoints(tmp_path, every=1, logs=[])
    breaks = LambdaCallback(
        on_train_batch_end=lambda trainer, trained, *_: (
            trained.autoencoder.W_enc.data.fill_(torch.nan) if trainer.global_step == 3 else None
        )
    )
    trainer = pl.Trainer(
        max_steps=STEPS,
        accelerator="cpu",
        logger=False,
        callbacks=[breaks, checkpoints],
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    # The loss of the step itself is finite, and that of the next as well: latents that are not
    # finite are not active.
    with pytest.raises(UserError, match="the loss is nan at step 4"):
        trainer.fit(module, Batches())
    newest = checkpoints.newest()
    assert newest is not None
    assert newest.step == 2
    saved = torch.load(newest.path, weights_only=True)["state_dict"]
    assert all(torch.isfinite(weights).all() for weights in saved.values())


def test_a_disk_that_fills_names_the_checkpoint_and_the_one_before_it_serves(
    tmp_path, uninterrupted
):
    (tmp_path / "checkpoints").mkdir()
    full = tmp_path / "checkpoints" / f"step-000000008.ckpt.{os.getpid()}.partial"
    full.symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"No space left on device: '.*/step-000000008\.ckpt'"):
        train(tmp_path)
    assert [
        path.name for path in (tmp_path / "checkpoints").iterdir() if path.suffix == ".ckpt"
    ] == ["step-000000004.ckpt"]
    train(tmp_path)
    assert_ends_the_same(tmp_path, uninterrupted)


def test_only_the_last_two_checkpoints_are_kept_and_none_after_clearing(tmp_path):
    train(tmp_path, every=3)
    assert sorted(p.stem for p in (tmp_path / "checkpoints").glob("*.ckpt")) == [
        "step-000000009",
        "step-000000012",
    ]
    Checkpoints(tmp_path / "checkpoints", every=3, logs=[tmp_path / "metrics.jsonl"]).clear()
    assert not (tmp_path / "checkpoints").exists()
