"""How soon the command answers: seconds from the command to its end, or to a training's first step.

`python -m pytest tests/benchmarks/test_startup.py -m slow -s` prints the table. Run it on a machine
that does nothing else.
"""

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

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


def command(folder: Path, words: Sequence[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "diffusae", *words],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def answer(folder: Path, words: Sequence[str]) -> float:
    """Seconds from the command to its end."""
    begun = time.perf_counter()
    command(folder, words).wait()
    return time.perf_counter() - begun


def first_step(folder: Path, trial: int) -> float:
    """Seconds from the command to a training's first logged step; the training is then stopped."""
    tag = f"trial{trial}"
    begun = time.perf_counter()
    process = command(folder, ("train", *TINY, "trainer.log_every=1", f"sae.tag={tag}"))
    while not any(log.stat().st_size for log in folder.glob(f"outputs/tiny/sae/*-{tag}/*.jsonl")):
        assert process.poll() is None
        time.sleep(0.02)
    measured = time.perf_counter() - begun
    process.terminate()
    process.wait()
    return measured


def test_the_command_answers_soon(tmp_path: Path):
    """The least of some trials counts: what else the machine does only adds to it."""
    rows = {
        what: (limit, min(answer(tmp_path, words) for _ in range(TRIALS)))
        for what, (limit, words) in ANSWERS.items()
    }
    assert command(tmp_path, ("run", *TINY)).wait() == 0
    rows["the first step of a training"] = (6, min(first_step(tmp_path, n) for n in range(TRIALS)))
    rows["run, where all is finished (tiny)"] = (
        10,
        min(answer(tmp_path, ("run", *TINY)) for _ in range(TRIALS)),
    )
    table = Table("asked", "seconds", "limit")
    for what, (limit, measured) in rows.items():
        table.add_row(what, f"{measured:.2f}", f"{limit:g}")
    Console().print(table)
