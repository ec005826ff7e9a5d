"""`diffusae train` over several processes: the weights of one, one record, one metric log, and it
goes on after a stop.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from command import Started, diffusae
from composing import compose
from diffusae.errors import UserError
from diffusae.runs.metric_log import read_metrics
from diffusae.runs.record import read_record
from diffusae.study.study import Study
from stages import one_stream

CELL = f"{one_stream.CELL}-batchtopk-k4"


def command(outputs: Path, name: str, *arguments: str) -> list[str]:
    return one_stream.training(outputs, name, "sae=batchtopk", *arguments)


def train(outputs: Path, name: str, *arguments: str) -> Path:
    diffusae(*command(outputs, name, *arguments))
    return outputs / name / "sae" / CELL


@pytest.fixture(scope="module")
def two(outputs: Path) -> Path:
    return train(outputs, "two", "trainer.devices=2")


def test_two_processes_give_the_weights_and_the_figures_of_one(outputs, two):
    one = train(outputs, "one")
    alone, together = load_file(one / "sae.safetensors"), load_file(two / "sae.safetensors")
    for name, weights in alone.items():
        torch.testing.assert_close(together[name], weights, rtol=1e-3, atol=1e-5)
    rows, others = read_metrics(one / "metrics.jsonl"), read_metrics(two / "metrics.jsonl")
    assert len(rows) == len(others) == 4  # two of training, two of validation: one process writes
    for row, other in zip(rows, others, strict=True):
        assert row.keys() == other.keys()
        for name, value in row.items():
            assert other[name] == pytest.approx(value, rel=1e-3, abs=1e-5), name


def test_two_processes_leave_the_files_of_one(two):
    names = {path.name for path in two.iterdir() if not path.name.startswith(".")}
    assert names == {"sae.safetensors", "cfg.json", "metrics.jsonl", "run.json"}
    record = read_record(two)
    assert record is not None
    assert record.status == "finished"
    assert record.config["trainer"]["devices"] == 2
    assert json.loads((two / "cfg.json").read_text())["metadata"]["validation"].keys() >= {"val/l0"}


@pytest.mark.slow
def test_two_processes_that_are_stopped_go_on_to_the_same_weights(outputs, two):
    arguments = command(outputs, "stopped", "trainer.devices=2", "trainer.checkpoint_every=1")
    process = Started(*arguments)
    checkpoints = outputs / "stopped" / "sae" / CELL / "checkpoints"
    until = time.monotonic() + 150
    while not list(checkpoints.glob("step-*.json")) and time.monotonic() < until:
        time.sleep(0.01)
    process.kill(signal.SIGTERM)  # as a scheduler does
    done = process.ended(timeout=100)
    assert done.returncode == 128 + signal.SIGTERM, done.stderr[-2000:]
    assert "the same command goes on" in done.stderr
    assert list(checkpoints.glob("step-*.json"))
    resumed = train(outputs, "stopped", "trainer.devices=2", "trainer.checkpoint_every=1")
    whole, parts = load_file(two / "sae.safetensors"), load_file(resumed / "sae.safetensors")
    assert all(torch.equal(weights, parts[name]) for name, weights in whole.items())
    assert read_metrics(resumed / "metrics.jsonl") == read_metrics(two / "metrics.jsonl")


@pytest.mark.slow
def test_processes_that_torchrun_starts_leave_one_record(outputs, two):
    arguments = command(outputs, "torchrun", "trainer.devices=2")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node=2",
            "-m",
            "diffusae",
            *arguments,
        ],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    directory = outputs / "torchrun" / "sae" / CELL
    ours, theirs = load_file(two / "sae.safetensors"), load_file(directory / "sae.safetensors")
    for name, weights in ours.items():
        torch.testing.assert_close(theirs[name], weights, rtol=1e-3, atol=1e-5)
    assert len(read_metrics(directory / "metrics.jsonl")) == 4
    assert not (directory / "checkpoints").exists()


def test_what_processes_cannot_share_is_told_with_all_other_faults():
    overrides = [
        "trainer.devices=3",
        "trainer.num_nodes=2",
        "sae.k=900",
        "sae.selection_precision=int4",
    ]
    cfg = compose("train", overrides=["debug=tiny", *overrides])
    with pytest.raises(UserError) as error:
        Study(cfg).check()
    message = str(error.value)
    assert "4 faults" in message
    assert "6 processes cannot share batches of 64" in message
    assert "trainer.num_nodes=2 needs a process a device" in message
    assert "'int4'; known: auto, bfloat16, float32, int8" in message
    assert "k=900" in message


@pytest.mark.parametrize(
    ("stage", "started", "devices", "message"),
    [
        ("train", 2, 1, "torchrun has started 2 processes, and trainer.devices x .* is 1; make"),
        ("train", 1, 2, "torchrun has started 1 processes, and trainer.devices x .* is 2; make"),
        ("train_online", 3, 1, "torchrun has started 3 processes, and trainer.devices x .* is 1;"),
        ("label", 2, 1, "may be started once a device, not label; start it once"),
        ("train", 1, 1, None),
    ],
)
def test_processes_of_torchrun_that_are_not_the_devices_are_refused_before_they_meet(
    monkeypatch, stage, started, devices, message
):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
    monkeypatch.setenv("WORLD_SIZE", str(started))
    cfg = compose(stage, overrides=["debug=tiny", f"trainer.devices={devices}"])
    if message is None:
        Study(cfg).check()
        return
    with pytest.raises(UserError, match=message):
        Study(cfg).check()
