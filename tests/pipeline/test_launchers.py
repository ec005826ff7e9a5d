"""Collections and sweeps through other launchers: jobs in processes of their own, one of them
really killed.

What comes out is compared with the single run's: every byte of the collection, every weight.
"""

import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from command import Started
from composing import compose
from diffusae.files import sha256_of
from diffusae.runs.record import read_record
from diffusae.stages.collect import collect
from stages.test_collection_tasks import contents

SMALL = [
    "debug=tiny",
    "logger.mode=disabled",
    "grid.timesteps=[1.0,0.0]",
    "grid.blocks=[mid]",
    "model.steps=4",
    "activations.group_size=3",
    "prompts.counts={train: 24, validation: 4, dictionary: 4, tune: 2, test: 2}",
]


def start(*arguments: str, outputs: Path) -> Started:
    return Started(*arguments, *SMALL, f"paths.outputs={outputs}")


def ended(process: Started) -> tuple[int, str]:
    done = process.ended(timeout=600)
    return done.returncode, done.stderr


def kill_when(ready: Callable[[], int | None], beside: Started) -> None:
    """SIGKILL the process that `told` names, as soon as it names one."""
    while (pid := ready()) is None:
        assert beside.poll() is None, ended(beside)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)


def row_of(table: str, job: str) -> str:
    """The line of the table of outcomes that has a job."""
    return next(line for line in table.splitlines() if line.startswith("│") and job in line)


def collection_of(outputs: Path) -> dict[str, str]:
    return contents(outputs / "tiny" / "activations")


@pytest.fixture(scope="module")
def single(tmp_path_factory) -> Path:
    """One process that collects all."""
    outputs = tmp_path_factory.mktemp("single")
    collect(compose("collect", overrides=[*SMALL, f"paths.outputs={outputs}"]))
    return outputs


def collect_in_two_tasks(outputs: Path, *, kill: bool) -> tuple[int, str]:
    shards = ["collect", "-m", "hydra/launcher=submitit_local", "collect.shard=0/2,1/2"]
    process = start(*shards, outputs=outputs)
    groups = outputs / "tiny" / "activations" / "groups"

    def victim() -> int | None:
        record = groups / "parts" / "1-of-2" / ".lock.json"
        begun = (groups / "000001.json").exists() and record.exists()
        return json.loads(record.read_text())["pid"] if begun else None

    if kill:
        kill_when(victim, process)
    return ended(process)


def journals_of(outputs: Path) -> dict[str, int]:
    """When each finished group was written."""
    return {path.name: path.stat().st_mtime_ns for path in outputs.rglob("[0-9]*.json")}


# tasks of one process are compared with the single run in stages/test_collection_tasks
@pytest.mark.slow
def test_a_collection_in_two_tasks_of_submitit_one_killed_and_run_again_is_the_single_runs(
    single, tmp_path
):
    code, printed = collect_in_two_tasks(tmp_path, kill=True)
    assert code == 2, printed[-3000:]
    assert "done" in row_of(printed, "collect.shard=0/2")
    lost = row_of(printed, "collect.shard=1/2")
    assert re.search(r"failed .*its process ended before it could say why.*\.out", lost)
    assert not (tmp_path / "tiny" / "activations" / "manifest.json").exists()
    before = journals_of(tmp_path)
    assert before
    code, printed = ended(start("collect", "collect.shard=1/2", outputs=tmp_path))
    assert code == 0, printed[-3000:]
    assert before.items() <= journals_of(tmp_path).items()  # no finished group was done again
    assert collection_of(tmp_path) == collection_of(single)
    records = [read_record(outputs / "tiny" / "activations") for outputs in (single, tmp_path)]
    assert records[0] and records[1] and records[0].signature == records[1].signature


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_same_multirun_again_does_only_the_killed_task(single, tmp_path):
    assert collect_in_two_tasks(tmp_path, kill=True)[0] == 2
    code, printed = collect_in_two_tasks(tmp_path, kill=False)
    assert code == 0, printed[-3000:]
    assert "skipped" in row_of(printed, "collect.shard=0/2")
    assert "done" in row_of(printed, "collect.shard=1/2")
    assert collection_of(tmp_path) == collection_of(single)


def weights_of(outputs: Path) -> dict[str, str]:
    return {path.parent.name: sha256_of(path) for path in outputs.rglob("sae.safetensors")}


def ended_without(cell: Path, process: Started) -> tuple[int, str]:
    """The end of a sweep whose job of this cell is killed after its first checkpoint."""

    def victim() -> int | None:
        begun = any((cell / "checkpoints").glob("*.ckpt"))
        return json.loads((cell / ".lock.json").read_text())["pid"] if begun else None

    kill_when(victim, process)
    return ended(process)


SWEEP = [
    "train",
    "-m",
    "timestep=early,final",
    "block=mid",
    "conditioning=cond,uncond",
    "trainer.steps=80",
    "trainer.checkpoint_every=5",
]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_sweep_by_submitit_with_one_job_killed_and_run_again_has_the_weights_of_the_plain_sweep(
    single, tmp_path_factory
):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "outputs"
    shutil.copytree(single, elsewhere)
    assert ended(start(*SWEEP, outputs=single))[0] == 0
    cell = elsewhere / "tiny" / "sae" / "mid-t0.00-cond-k4"
    process = start(*SWEEP, "hydra/launcher=submitit_local", outputs=elsewhere)
    code, printed = ended_without(cell, process)
    assert code == 2, printed[-3000:]
    assert "its process ended" in row_of(printed, "timestep=final conditioning=cond ")
    assert len(weights_of(elsewhere)) == 3
    code, printed = ended(start(*SWEEP, "hydra/launcher=submitit_local", outputs=elsewhere))
    assert code == 0, printed[-3000:]
    assert printed.count("skipped") == 3 + 1  # and in the title
    assert weights_of(elsewhere) == weights_of(single)
    assert len(weights_of(single)) == 4


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_joblib_tells_what_was_killed_and_the_same_command_does_only_that(single, tmp_path):
    sweep = [*SWEEP, "hydra/launcher=joblib", "sae.tag=joblib", "trainer.steps=81"]
    process = start(*sweep, outputs=single)
    cell = single / "tiny" / "sae" / "mid-t1.00-uncond-joblib"
    code, printed = ended_without(cell, process)
    assert code == 2, printed[-3000:]
    assert "its process ended" in row_of(printed, "conditioning=uncond")
    assert "the launcher gave up: TerminatedWorkerError" in printed
    code, printed = ended(start(*sweep, outputs=single))
    assert code == 0, printed[-3000:]
    assert "4 done" in printed or "skipped" in printed
    assert len([name for name in weights_of(single) if name.endswith("joblib")]) == 4


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_job_that_fails_by_itself_is_told_by_joblib_as_by_any_launcher(single):
    sweep = ["train", "-m", "hydra/launcher=joblib", "timestep=early", "block=mid", "sae.k=2,900"]
    code, printed = ended(start(*sweep, outputs=single))
    assert code == 2
    assert "k=900 exceeds d_sae=64" in row_of(printed, "sae.k=900")
    assert "done" in row_of(printed, "sae.k=2 ")
