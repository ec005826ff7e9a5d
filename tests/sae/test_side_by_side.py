"""Trainings side by side are the single trainings: weights to the bit, rows of figures to the
digit.
"""

from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from diffusae.activations.datamodule import ActivationDataModule
from diffusae.activations.schema import CollectedSample, Stream
from diffusae.activations.together import TogetherBatches, TogetherDataModule
from diffusae.activations.writer import ActivationWriter
from diffusae.errors import UserError
from diffusae.runs.checkpoint import Checkpoints
from diffusae.runs.lightning_logger import JsonlLogger, MemberLogger
from diffusae.runs.metric_log import read_metrics
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.callbacks import LastValidation, MovingAverage
from diffusae.sae.module import SAEModule
from diffusae.sae.side_by_side import Member, SideBySide
from diffusae.sae.sparsity import BatchTopK, JumpReLU, MatryoshkaTopK, ReLU, TopK

STEPS = 23
GRIDS = {"mid": (2, 5), "up": (3, 4)}  # epochs of 8 and of 10 batches
MEMBERS = {
    "mid-k3": ("mid", lambda: TopK(3), {}),
    "mid-k1": ("mid", lambda: TopK(1), {"selection_precision": "bfloat16"}),
    "mid-nested": (
        "mid",
        lambda: MatryoshkaTopK(3, prefixes=[6]),
        {"input_scaling": "standardise"},
    ),
    "up-t0.5": ("up", lambda: BatchTopK(3), {"selection_precision": "int8"}),
    "up-jump": ("up", lambda: JumpReLU(24, l0=0.01), {"encoder_bias": True}),
    "up-l1": ("up", lambda: ReLU(l1=0.3), {"encoder_bias": True, "input_scaling": "none"}),
}
FIT = {
    "max_steps": STEPS,
    "max_epochs": -1,
    "accelerator": "cpu",
    "devices": 1,
    "log_every_n_steps": 2,
    "val_check_interval": 7,
    "check_val_every_n_epoch": None,
    "num_sanity_val_steps": 0,
    "gradient_clip_val": 0.05,  # low: most steps are clipped
    "enable_checkpointing": False,
    "enable_model_summary": False,
    "enable_progress_bar": False,
}
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def collection(tmp_path_factory) -> Path:
    streams = [
        Stream(block=block, t=0.5, conditioning="cond", hookpoint=block, step_index=2, timestep=401,
               grid=grid, d_in=6)
        for block, grid in GRIDS.items()
    ]  # fmt: skip
    root = tmp_path_factory.mktemp("grid") / "activations"
    writer = ActivationWriter(root, streams=streams, header={"model": "toy"}, with_images=False)
    for index, (split, count) in enumerate([("train", 5), ("train", 8), ("validation", 2)]):
        rng = np.random.default_rng(index)
        records = [
            CollectedSample(
                image_id=f"g{index}i{n}",
                prompt="",
                seed=n,
                split=split,
                updates={
                    stream.folder: rng.normal(size=(stream.positions, 6)).astype(np.float32)
                    for stream in streams
                },
            )
            for n in range(count)
        ]
        writer.write_group(index, records)
    writer.finish()
    return root


def stream(root: Path, block: str) -> ActivationDataModule:
    return ActivationDataModule(
        root, block=block, t=0.5, conditioning="cond", batch_size=16, buffer_vectors=48, seed=3
    )


def module(name: str, data: ActivationDataModule) -> SAEModule:
    _, sparsity, options = MEMBERS[name]
    sae = SparseAutoencoder(6, 24, sparsity(), seed=1, **options)  # type: ignore[arg-type]
    made = SAEModule(
        sae,
        dead_after_vectors=40,
        lr=1e-2,
        warmup_steps=3,
        decay_steps=5,
        total_steps=STEPS,
        k_aux=4,
    )
    made.initialise(next(iter(data.val_dataloader())))
    return made


def hooks() -> list[pl.Callback]:
    return [MovingAverage(decay=0.8), LastValidation()]


def alone(root: Path, name: str, log: Path) -> tuple[dict[str, torch.Tensor], list[dict]]:
    data = stream(root, MEMBERS[name][0])
    made = module(name, data)
    pl.Trainer(**FIT, logger=JsonlLogger(log), callbacks=hooks()).fit(made, datamodule=data)
    return made.state_dict(), read_metrics(log)


def together(root: Path, directory: Path, *, stop_after: int | None = None):
    streams = {block: stream(root, block) for block in GRIDS}
    members = {
        name: Member(block, module(name, streams[block])) for name, (block, *_) in MEMBERS.items()
    }
    logs = {name: directory / f"{name}.jsonl" for name in members}
    batches = {
        name: len(streams[member.stream].train_dataloader()) for name, member in members.items()
    }
    checkpoints = Checkpoints(directory / "checkpoints", every=5, logs=list(logs.values()))
    resumed = checkpoints.resume()

    class Stop(pl.Callback):
        def on_train_batch_start(self, trainer, *_):
            if trainer.global_step == stop_after:
                raise KeyboardInterrupt

    trainer = pl.Trainer(
        **FIT, logger=MemberLogger(logs, batches=batches), callbacks=[*hooks(), Stop(), checkpoints]
    )
    side_by_side = SideBySide(members)
    try:
        trainer.fit(
            side_by_side,
            datamodule=TogetherDataModule(streams, steps=STEPS),
            ckpt_path=None if resumed is None else resumed.path,
            weights_only=True,
        )
    except (KeyboardInterrupt, SystemExit):
        assert stop_after is not None
    return {
        name: (member.module.state_dict(), read_metrics(logs[name]))
        for name, member in members.items()
    }


def assert_same(found, expected):
    for key, value in expected[0].items():
        assert torch.equal(found[0][key], value), key
    assert found[1] == expected[1]


def test_every_member_ends_as_it_ends_alone(collection, tmp_path):
    found = together(collection, tmp_path / "together")
    for name in MEMBERS:
        expected = alone(collection, name, tmp_path / f"{name}.jsonl")
        assert len(expected[1]) > STEPS // 2
        assert (
            any(row.get("train/aux_loss", 0) > 0 for row in expected[1]) or name == "up-l1"
        )  # none is dead
        assert_same(found[name], expected)


def test_stopped_in_the_middle_of_an_epoch_it_goes_on_as_if_it_had_not(collection, tmp_path):
    whole = together(collection, tmp_path / "whole")
    together(collection, tmp_path / "stopped", stop_after=12)
    assert (
        sorted(path.name for path in (tmp_path / "stopped" / "checkpoints").glob("*.ckpt"))[-1]
        == "step-000000010.ckpt"
    )
    resumed = together(collection, tmp_path / "stopped")
    for name in MEMBERS:
        assert_same(resumed[name], whole[name])


def test_each_stream_is_read_once_whatever_the_number_of_members(collection):
    data = TogetherDataModule({block: stream(collection, block) for block in GRIDS}, steps=9)
    batches = list(data.train_dataloader())
    assert len(batches) == 9
    for block in GRIDS:
        single = stream(collection, block).train_dataloader()
        expected = list(single)
        single.set_epoch(1)
        expected += list(single)
        for got, want in zip(batches, expected, strict=False):
            assert torch.equal(got[block], want)


def test_a_checkpoint_of_other_streams_is_refused(collection):
    both = TogetherBatches({b: stream(collection, b).train_dataloader() for b in GRIDS}, steps=3)
    one = TogetherBatches({"mid": stream(collection, "mid").train_dataloader()}, steps=3)
    with pytest.raises(UserError, match="mid, up, not mid"):
        one.load_state_dict(both.state_dict())


def test_different_learning_rates_are_refused():
    slow, fast = (
        SAEModule(SparseAutoencoder(4, 8, TopK(1)), lr=lr, dead_after_vectors=10)
        for lr in (1e-3, 1e-2)
    )
    with pytest.raises(UserError, match="one learning rate"):
        SideBySide({"a": Member("s", slow), "b": Member("s", fast)})
    with pytest.raises(UserError, match="nothing to train"):
        SideBySide({})


def test_an_error_names_the_member(collection, tmp_path):
    data = stream(collection, "mid")
    broken = module("mid-k1", data)
    with torch.no_grad():
        broken.autoencoder.W_enc[0, 0] = float("nan")
    members = {"sound": Member("mid", module("mid-k3", data)), "broken": Member("mid", broken)}
    trainer = pl.Trainer(**FIT, logger=False)
    with pytest.raises(UserError, match=r"broken: the loss is nan at step 0"):
        trainer.fit(SideBySide(members), datamodule=TogetherDataModule({"mid": data}, steps=STEPS))
