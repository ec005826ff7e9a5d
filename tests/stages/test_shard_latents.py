"""`diffusae train` with latents that are dealt over processes: the autoencoder of one process."""

import json
import os
import signal
import socket
import sys
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
import torch.multiprocessing as mp
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from safetensors.torch import load_file
from torch.testing import assert_close

from command import diffusae, serve
from composing import compose
from diffusae.errors import UserError
from diffusae.files import sha256_of
from diffusae.runs.checkpoint import Checkpoints
from diffusae.runs.metric_log import read_metrics
from diffusae.runs.stop_together import StopTogether
from diffusae.sae.storage import INDEX_NAME, load_sae
from diffusae.stages.train import train as train_stage
from diffusae.study.study import Study
from stages import one_stream

CELL = f"{one_stream.CELL}-k4"
COMMAND = [
    "sae=topk", "sae.k=4", "sae.gradient_clip=0.5", "trainer.validate_every=2",
    "trainer.checkpoint_every=1",
]  # fmt: skip
SHARDED = "trainer.shard_latents=true"


def command(outputs: Path, name: str, *arguments: str) -> list[str]:
    return one_stream.training(outputs, name, *COMMAND, *arguments)


def as_torchrun(
    rank: int, processes: int, port: int, stop_after: int | None, arguments: list[str]
) -> None:
    """What one of the processes does that torchrun starts. After a step, the last one gets a
    SIGTERM.
    """
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0", "OMP_NUM_THREADS": "1",
        "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test",
    }  # fmt: skip
    rank_zero_only.rank = rank  # read when Lightning was imported, before this process was forked
    sys.argv = ["diffusae", *arguments]
    from diffusae.cli import main

    done = StopTogether.after_step

    def after_step(self: StopTogether, trainer: pl.Trainer) -> None:
        if trainer.global_step == stop_after and rank == processes - 1:
            signal.raise_signal(signal.SIGTERM)
        done(self, trainer)

    StopTogether.after_step = after_step  # type: ignore[method-assign]

    try:
        main()
    except SystemExit as end:
        if end.code:
            raise RuntimeError(f"exit code {end.code}") from end


def train(outputs: Path, name: str, *, processes: int = 2, stop_after: int | None = None) -> Path:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serve()
    given = command(outputs, name, SHARDED, f"trainer.devices={processes}")
    mp.start_processes(
        as_torchrun,
        args=(processes, port, stop_after, given),
        nprocs=processes,
        start_method="forkserver",
    )
    return outputs / name / "sae" / CELL


@pytest.fixture(scope="module")
def one(outputs: Path) -> Path:
    diffusae(*command(outputs, "one"))
    return outputs / "one" / "sae" / CELL


@pytest.fixture(scope="module")
def two(outputs: Path) -> Path:
    return train(outputs, "two")


def test_two_processes_give_the_weights_and_the_figures_of_one(one, two):
    expected, metadata = load_sae(one)
    sae, ours = load_sae(two)
    assert sae.sparsity.config() == {"k": 4} and ours.keys() == metadata.keys()
    for name, weights in expected.state_dict().items():
        assert_close(sae.state_dict()[name], weights, rtol=1e-4, atol=1e-6)
    rows, others = read_metrics(one / "metrics.jsonl"), read_metrics(two / "metrics.jsonl")
    assert len(rows) == len(others) > 4
    for row, other in zip(rows, others, strict=True):
        assert other == pytest.approx(row, rel=1e-4, abs=1e-6)


def test_the_weights_are_whole_tensors_in_files_that_an_index_names(two):
    names = {path.name for path in two.iterdir() if not path.name.startswith(".")}
    files = {f"sae-0000{n}-of-00002.safetensors" for n in (1, 2)}
    assert names == {*files, INDEX_NAME, "cfg.json", "metrics.jsonl", "run.json"}
    index = json.loads((two / INDEX_NAME).read_text())
    assert set(index["weight_map"].values()) == index["metadata"]["sha256"].keys() == files
    for name, file in index["weight_map"].items():  # as Hugging Face's libraries read it
        assert torch.equal(load_file(two / file)[name], load_sae(two)[0].state_dict()[name])
    assert index["metadata"]["total_size"] == 4 * (2 * 64 * 32 + 64 + 3 * 32)


# that another number of processes reads the parts is tested in tests/sae/test_sharded.py, faster
@pytest.mark.slow
def test_four_processes_go_on_where_two_were_stopped(outputs, two):
    with pytest.raises(mp.ProcessRaisedException, match=f"exit code {128 + signal.SIGTERM}"):
        train(outputs, "stopped", stop_after=3)
    checkpoints = outputs / "stopped" / "sae" / CELL / "checkpoints"
    assert len(list((checkpoints / "step-000000003").iterdir())) == 2
    assert sorted(path.name for path in checkpoints.iterdir() if path.is_dir()) == [
        "step-000000002",
        "step-000000003",
    ]
    with pytest.raises(UserError, match=r"began with trainer\.shard_latents=true; go on with that"):
        train_stage(compose("train", overrides=command(outputs, "stopped")[1:]))
    resumed = train(outputs, "stopped", processes=4)
    assert not checkpoints.exists()
    rows = read_metrics(two / "metrics.jsonl")
    for row, other in zip(rows, read_metrics(resumed / "metrics.jsonl"), strict=True):
        assert other == pytest.approx(row, rel=1e-4, abs=1e-6)
    for name, weights in load_sae(two)[0].state_dict().items():
        assert_close(load_sae(resumed)[0].state_dict()[name], weights, rtol=1e-4, atol=1e-6)


def test_a_checkpoint_with_a_damaged_part_is_passed_over(tmp_path):
    """What `Checkpoints` sees of parts: a file of each process beside the checkpoint."""
    path = tmp_path / "step-000000003.ckpt"
    state = dict.fromkeys(("state_dict", "optimizer_states", "loops")) | {"global_step": 3}
    torch.save(state, path)
    (tmp_path / "step-000000003").mkdir()
    part = tmp_path / "step-000000003" / "a.safetensors"
    part.write_bytes(b"rows")
    hashes = {"sha256": sha256_of(path), "parts": {part.name: sha256_of(part)}}
    path.with_suffix(".json").write_text(json.dumps(hashes))
    checkpoints = Checkpoints(tmp_path, every=1, logs=[])
    newest = checkpoints.newest()
    assert newest is not None and newest.of_shards
    part.write_bytes(b"rowS")
    assert checkpoints.newest() is None


def test_what_shards_cannot_do_is_told_with_all_other_faults():
    overrides = ["trainer.devices=3", "sae=batchtopk", "sae.ema=0.9", "trainer.kernels=dense"]
    overrides += ["activations.batch_size=64", "sae.d_sae=64"]
    cfg = compose("train", overrides=["debug=tiny", SHARDED, *overrides])
    with pytest.raises(UserError) as error:
        Study(cfg).check()
    message = str(error.value)
    for told in (
        "5 faults",
        "needs a process a device that torchrun or Slurm starts",
        "d_sae=64 latents cannot be dealt evenly over 3 processes",
        "works with sae=topk and sae=matryoshka, not with BatchTopK",
        "keeps no moving average, and sae.ema=0.9",
        "has no dense products, and trainer.kernels=dense",
    ):
        assert told in message
    with pytest.raises(UserError, match="deals latents over processes, and there is one"):
        Study(compose("train", overrides=["debug=tiny", SHARDED])).check()
    with pytest.raises(UserError, match=r"is for `diffusae train`, not train_online"):
        Study(compose("train_online", overrides=["debug=tiny", SHARDED])).check()
    Study(compose("label", overrides=["debug=tiny", SHARDED])).check()  # it trains nothing
