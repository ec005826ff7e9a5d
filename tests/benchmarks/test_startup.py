"""How soon the command answers: seconds from the command to its end, or to a training's first step.

`python -m pytest tests/benchmarks/test_startup.py -m slow -s` prints the table. Run it on a machine
that does nothing else.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

pytestmark = pytest.mark.slow

TRIALS = 3
TINY = ("debug=tiny", "name=tiny", "logger=none")
ANSWERS: dict[str, tuple[float, tuple[str, ...]]] = {
    "--help": (1.5, ("--help",)),
    "STAGE --help": (1.5, ("train", "--help")),
    "--cfg job": (1.5, ("train", "--cfg", "job")),
    "a setting that there is not": (1.5, ("train", "trainer.stps=3")),
    "an option that there is not": (1.5, ("train", "sae=topkk")),
    "a group that there is not": (1.5, ("train", "saee=topk")),
    "a value that is refused": (1.5, ("train", "trainer.steps=-3")),
    "plan": (4, ("plan", "plan.probe=false")),
    "plan of 200,000 pictures": (4, ("plan", "plan.probe=false", "experiment=paper_sd14")),
}
"""What is asked -> (the limit in seconds, the command)."""


def seconds(work: Callable[[], object]) -> float:
    """The least of some trials, as others only add to it."""
    measured = []
    for _ in range(TRIALS):
        begun = time.perf_counter()
        work()
        measured.append(time.perf_counter() - begun)
    return min(measured)


def command(folder: Path, words: Sequence[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "diffusae", *words],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def first_step(folder: Path, trial: int) -> None:
    """Train a cell until it has logged a step."""
    words = ("train", *TINY, "trainer.log_every=1", f"sae.tag=trial{trial}")
    log = next(iter(folder.glob(f"outputs/tiny/sae/*-trial{trial}/metrics.jsonl")), None)
    process = command(folder, words)
    while process.poll() is None and (log is None or not log.stat().st_size):
        time.sleep(0.02)
        log = next(iter(folder.glob(f"outputs/tiny/sae/*-trial{trial}/metrics.jsonl")), None)
    process.terminate()
    process.wait()
    assert log is not None


def test_the_command_answers_soon(tmp_path: Path):
    rows = {
        what: (limit, seconds(lambda words=words: command(tmp_path, words).wait()))
        for what, (limit, words) in ANSWERS.items()
    }
    assert command(tmp_path, ("run", *TINY)).wait() == 0
    trials = iter(range(TRIALS))
    rows["the first step of a training"] = (6, seconds(lambda: first_step(tmp_path, next(trials))))
    rows["run, where all is finished (tiny)"] = (
        10,
        seconds(lambda: command(tmp_path, ("run", *TINY)).wait()),
    )
    table = Table("asked", "seconds", "limit")
    for what, (limit, measured) in rows.items():
        table.add_row(what, f"{measured:.2f}", f"{limit:g}")
    Console().print(table)
