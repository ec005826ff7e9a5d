"""`train_online` in several processes gives the files of one, to the bit, and goes on after a kill
with any number of processes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import patch

import pytest

from command import diffusae
from diffusae.jobs.ranks import Ranks
from diffusae.stages.train_online import _train, train_online
from diffusae.training import train_grid
from several import in_processes
from stages.online_study import TINY, composed, files, unstored_in

pytestmark = pytest.mark.filterwarnings("ignore")


def part(ranks: Ranks, directory: Path, overrides: list[str], dies_at: int | None) -> None:
    """What one process of the command does; the second is killed before its n-th chunk."""
    fit, chunks = train_grid.Together.fit, []

    def fitting(self, *args, **values):
        chunks.append(args)
        if ranks.rank == 1 and len(chunks) == dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        fit(self, *args, **values)

    with patch.object(train_grid.Together, "fit", fitting):
        _train(composed(directory, *overrides, command="train_online"), ranks)


def test_two_processes_write_the_files_of_one_to_the_bit(stored, collected, tmp_path):
    assert in_processes(part, 2, tmp_path, tmp_path, unstored_in(collected), None) == [0, 0]
    assert files(tmp_path) == files(stored)


def test_after_a_kill_one_process_goes_on_with_the_shares_of_two(stored, collected, tmp_path):
    overrides = unstored_in(collected)
    codes = in_processes(part, 2, tmp_path, tmp_path, overrides, 3)
    assert codes == [1, -signal.SIGKILL]  # the first one ends with an error
    assert len(list((tmp_path / "study" / "sae").glob(".online-*/*-*-*/checkpoints"))) == 2
    assert train_online(composed(tmp_path, *overrides, command="train_online"))
    assert files(tmp_path) == files(stored)
    assert not list((tmp_path / "study" / "sae").glob(".online-*"))


def command(directory: Path, collected: Path) -> list[str]:
    where = [*unstored_in(collected), f"paths.outputs={directory}", "name=study"]
    return ["train_online", *TINY, *where, "trainer.devices=2"]


# The same work without the command is in the first test above.
@pytest.mark.slow
def test_the_command_starts_the_second_process_itself(stored, collected, tmp_path):
    done = diffusae(*command(tmp_path, collected))
    assert "4 trainings are finished" in done.stdout + done.stderr
    assert files(tmp_path) == files(stored)


def torchrun(directory: Path, collected: Path, processes: int) -> subprocess.Popen[str]:
    arguments = command(directory, collected)
    arguments[-1] = f"trainer.devices={processes}"
    module = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.Popen(
        [sys.executable, *module, "-m", "diffusae", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


# The same kill without torchrun is in the second test above.
@pytest.mark.slow
def test_one_of_three_that_torchrun_started_is_killed_and_the_same_command_goes_on(
    stored, collected, tmp_path
):
    begun = torchrun(tmp_path, collected, 3)
    until = time.monotonic() + 200
    while (
        begun.poll() is None
        and not list(tmp_path.rglob("step-*.json"))
        and time.monotonic() < until
    ):
        time.sleep(0.01)
    children = Path(f"/proc/{begun.pid}/task/{begun.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    _, told = begun.communicate(timeout=120)
    assert begun.returncode != 0
    assert "the same command goes on" in told, told[-3000:]
    again = torchrun(tmp_path, collected, 3)
    _, told = again.communicate(timeout=300)
    assert again.returncode == 0, told[-3000:]
    assert files(tmp_path) == files(stored)
