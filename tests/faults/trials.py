"""Trials, and their distribution to processes."""

import json
import os
import shutil
import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from faults.ending import Verdict


@dataclass(frozen=True)
class Trial:
    """One disturbed study.

    Args:
        group: of the table: `killed`, `damaged` or `full disk`.
        row: the stage, or the kind of file.
        fault: what is done to it.
        carry_out: does it in an empty directory; None: the disturbance could not be made.
    """

    group: str
    row: str
    fault: str
    carry_out: Callable[[Path], Verdict | None]


@dataclass(frozen=True)
class Result:
    """A trial's outcome; `tried` is false where the disturbance could not be made."""

    group: str
    row: str
    fault: str
    outcome: str
    detail: str

    @property
    def tried(self) -> bool:
        """Whether the study was disturbed."""
        return self.outcome != "not tried"


def carry_out(trials: Sequence[Trial], directory: Path, *, jobs: int) -> list[Result]:
    """The results of all trials, in their order, by `jobs` processes.

    Processes are forked while this one has a single thread. They take the trials' numbers from a
    pipe.
    """
    ahead, numbers = os.pipe()
    workers = []
    for _ in range(jobs):
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            os.close(numbers)
            _work(trials, ahead, directory)
        workers.append(pid)
    os.close(ahead)
    for number in range(len(trials)):
        os.write(numbers, struct.pack("I", number))
    os.close(numbers)
    for pid in workers:
        os.waitpid(pid, 0)
    return [_result_of(trial, directory / f"{number}.json") for number, trial in enumerate(trials)]


def _work(trials: Sequence[Trial], ahead: int, directory: Path) -> None:
    parent = os.getppid()
    while (data := os.read(ahead, 4)) and os.getppid() == parent:
        (number,) = struct.unpack("I", data)
        trial, begun = trials[number], time.monotonic()
        try:
            with _room(directory / f"trial-{number}") as room:
                verdict = trial.carry_out(room)
        except Exception as error:
            verdict = Verdict("unclear", f"the campaign itself failed: {error!r}")
        outcome, detail = "not tried", ""
        if verdict is not None:
            outcome, detail = verdict.outcome, verdict.detail
        result = Result(trial.group, trial.row, trial.fault, outcome, detail)
        (directory / f"{number}.json").write_text(json.dumps(asdict(result)), encoding="utf-8")
        seconds = time.monotonic() - begun
        print(
            f"{number + 1}/{len(trials)} {trial.group}: {trial.row}, {trial.fault}: {outcome}"
            f" ({seconds:.1f} s){'' if outcome == 'identical' or not detail else ' | ' + detail}",
            flush=True,
        )
    os._exit(0)


@contextmanager
def _room(directory: Path) -> Iterator[Path]:
    directory.mkdir(parents=True)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _result_of(trial: Trial, path: Path) -> Result:
    if not path.exists():
        fault = "the process of the trial ended"
        return Result(trial.group, trial.row, trial.fault, "unclear", fault)
    return Result(**json.loads(path.read_text(encoding="utf-8")))
