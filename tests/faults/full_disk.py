"""Trials that fill a small disk while a step writes, and then give it room again."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random

from faults.command import run
from faults.ending import Verdict, to_the_end
from faults.remedy import message_of
from faults.snapshots import Snapshots
from faults.study import OUTPUTS, STEPS, Step
from faults.trials import Trial

DRAWS = 4
"""Sizes that are drawn at the most until one is too small for the step."""


def disk_trials(snapshots: Snapshots, random: Random, each: int) -> list[Trial]:
    """So many trials a step."""
    return [
        Trial(
            "full disk",
            step.name,
            "full disk",
            partial(_filled, snapshots, step, random.getrandbits(64)),
        )
        for step in STEPS.values()
        if step.name in snapshots.undisturbed
        for _ in range(each)
    ]


def can_mount() -> bool:
    """Whether this user may make a small disk."""
    with tempfile.TemporaryDirectory() as directory:
        try:
            with small_disk(Path(directory)):
                return True
        except subprocess.CalledProcessError:
            return False


@contextmanager
def small_disk(place: Path) -> Iterator[Path]:
    """A disk in memory, mounted at `place` while the block runs; `leave_free` sets its size."""
    _call("mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", str(place))
    try:
        yield place
    finally:
        _call("umount", "--lazy", str(place))


def leave_free(disk: Path, bytes_: int) -> None:
    """Make the disk so small, or so large, that this much is free."""
    stat = os.statvfs(disk)
    used = (stat.f_blocks - stat.f_bfree) * stat.f_frsize
    _call("mount", "-o", f"remount,size={used + max(bytes_, stat.f_frsize)}", str(disk))


def _call(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def _filled(snapshots: Snapshots, step: Step, seed: int, room: Path) -> Verdict | None:
    random, disk = Random(seed), room / "disk"
    disk.mkdir()
    needed = _pages(snapshots.after(step.name)) - _pages(snapshots.after(step.after))
    for draw in range(DRAWS):
        with small_disk(disk):
            snapshots.place(snapshots.after(step.after), disk)
            leave_free(disk, int(needed * random.uniform(0, 1) / (1 + draw)))
            ended = run(step.command, disk, notes=room)
            if ended.code == 0:
                continue
            said = message_of(ended.stderr)
            if "Traceback" in ended.stderr or ended.code != 2 or "space" not in said:
                return Verdict(
                    "unclear", f"exit {ended.code}: {said or ended.stderr.strip()[-300:]}"
                )
            leave_free(disk, 128 << 20)
            verdict = to_the_end(step, disk, snapshots.after(step.name))
            return (
                replace(verdict, outcome="remedied") if verdict.outcome == "identical" else verdict
            )
    return None


def _pages(study: Path, page: int = 4096) -> int:
    """Bytes that a study's files take on a disk in memory."""
    sizes = [path.stat().st_size for path in (study / OUTPUTS).rglob("*") if path.is_file()]
    return sum(-(-size // page) * page for size in sizes)
