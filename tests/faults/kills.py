"""Trials that kill a step: at a random moment, twice, and again during the resume."""

import itertools
import shutil
import signal
from functools import partial
from pathlib import Path
from random import Random

from faults.command import Blow, Ended, run
from faults.ending import Verdict, to_the_end
from faults.snapshots import Snapshots
from faults.study import STEPS, Step
from faults.trials import Trial

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
PATTERNS = ("once", "twice in a row", "during the resume")
DRAWS = 4
"""The most moments that are drawn until one comes before the end."""


def kill_trials(snapshots: Snapshots, random: Random, count: int) -> list[Trial]:
    """`count` trials, evenly over steps, signals and patterns."""
    names = [name for name in STEPS if name in snapshots.undisturbed]
    faults = list(itertools.product(SIGNALS, PATTERNS))
    random.shuffle(names)
    random.shuffle(faults)
    trials = []
    for number in range(count):
        step = STEPS[names[number % len(names)]]
        kind, pattern = faults[number % len(faults)]
        seed, by_time = random.getrandbits(64), number % 2 == 0
        kill = partial(_killed, snapshots, step, kind, pattern, seed, by_time)
        trials.append(Trial("killed", step.name, f"{kind.name} {pattern}", kill))
    return trials


def _killed(
    snapshots: Snapshots,
    step: Step,
    kind: signal.Signals,
    pattern: str,
    seed: int,
    by_time: bool,
    room: Path,
) -> Verdict | None:
    random, undisturbed = Random(seed), snapshots.undisturbed[step.name]
    directory, twice = room / "study", pattern == "twice in a row"

    def blow() -> Blow:
        if by_time:
            return Blow(kind, after_s=random.uniform(0, undisturbed.seconds), twice=twice)
        return Blow(kind, write=random.randint(1, undisturbed.writes), twice=twice)

    for _ in range(DRAWS):
        snapshots.place(snapshots.after(step.after), directory)
        if (ended := run(step.command, directory, blow())).hit:
            break
        shutil.rmtree(directory)
    else:
        return None
    if pattern == "during the resume" and not fault_of(ended, kind):
        ended = run(step.command, directory, blow())  # it may end first: little was left to do
    if ended.hit and (fault := fault_of(ended, kind)):
        return Verdict("unclear", fault)
    return to_the_end(step, directory, snapshots.after(step.name))


def fault_of(ended: Ended, kind: signal.Signals) -> str | None:
    """What is wrong with a command's end after a signal; None: nothing.

    SIGKILL allows no reaction. The others must end with 128 + signal and one line, or with code 0
    where all was done.
    """
    if kind == signal.SIGKILL or ended.code == 0:
        return None
    last = " / ".join(ended.stderr.strip().splitlines()[-3:])[-300:]
    if "Traceback" in ended.stderr:
        return f"traceback after {kind.name}: {last}"
    if ended.code != 128 + kind:
        return f"exit code {ended.code} after {kind.name}: {last}"
    if ended.stderr.strip() and "the same command goes on" not in ended.stderr:
        return f"no word on how to continue after {kind.name}: {last}"
    return None
