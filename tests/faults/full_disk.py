"""Trials that fill a small disk while a step writes, and then free space again."""

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
"""The most sizes that are drawn until one is too small for the step."""


def disk_trials(snapshots: Snapshots, random: Random, count: int) -> list[Trial]:
    """`count` trials for every step."""
    trials = []
    for step in STEPS.values():
        for _ in range(count if step.name in snapshots.undisturbed else 0):
            fill = partial(_filled, snapshots, step, random.getrandbits(64))
            trials.append(Trial("full disk", step.name, "full disk", fill))
    return trials


def can_mount() -> bool:
    """Whether this user may mount a small disk."""
    with tempfile.TemporaryDirectory() as directory:
        try:
            with small_disk(Path(directory)):
                return True
        except subprocess.CalledProcessError:
            return False


@contextmanager
def small_disk(place: Path) -> Iterator[Path]:
    """A disk in memory, mounted at `place` inside the context; `leave_free` sets its size."""
    _call("mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", str(place))
    try:
        yield place
    finally:
        _call("umount", "--lazy", str(place))


def leave_free(disk: Path, bytes_: int) -> None:
    """Resize the disk so that this much is free."""
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
                reason = said or ended.stderr.strip()[-300:]
                return Verdict("unclear", f"exit {ended.code}: {reason}")
            leave_free(disk, 128 << 20)
            verdict = to_the_end(step, disk, snapshots.after(step.name))
            identical = verdict.outcome == "identical"
            return replace(verdict, outcome="remedied") if identical else verdict
    return None


def _pages(study: Path, page: int = 4096) -> int:
    """Bytes that a study's files take on a disk in memory."""
    sizes = [path.stat().st_size for path in (study / OUTPUTS).rglob("*") if path.is_file()]
    return sum(-(-size // page) * page for size in sizes)
