"""Trials that damage a file: cut it, flip a bit, empty it, remove it, replace it by a directory."""

import os
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from random import Random

from faults.ending import Verdict, to_the_end
from faults.judge import is_result
from faults.kinds import files_of, kinds_among
from faults.snapshots import UNFINISHED, Snapshots
from faults.study import COPY, OUTPUTS, STEPS, Step
from faults.trials import Trial


def cut(path: Path, random: Random) -> bool:
    """Keep a beginning of the file. False: it is too short for that."""
    size = path.stat().st_size
    if size < 2:
        return False
    os.truncate(path, random.randrange(1, size))
    return True


def turn_a_bit(path: Path, random: Random) -> bool:
    """Flip one bit. False: the file is empty."""
    data = bytearray(path.read_bytes())
    if not data:
        return False
    data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    path.write_bytes(data)
    return True


def empty(path: Path, random: Random) -> bool:
    """Cut the file to length 0. False: it is empty already."""
    if not path.stat().st_size:
        return False
    os.truncate(path, 0)
    return True


def remove(path: Path, random: Random) -> bool:
    """Remove the file."""
    path.unlink()
    return True


def put_a_directory(path: Path, random: Random) -> bool:
    """Replace the file by an empty directory."""
    path.unlink()
    path.mkdir()
    return True


WAYS: Mapping[str, Callable[[Path, Random], bool]] = {
    "truncated": cut,
    "one bit": turn_a_bit,
    "empty": empty,
    "missing": remove,
    "a directory": put_a_directory,
}


def damage_trials(snapshots: Snapshots, random: Random) -> list[Trial]:
    """Every kind of file in every way, before the command that wrote it and before a reader."""
    trials: list[Trial] = []
    for step in _writers(snapshots):
        written = files_of(snapshots.after(step.name)) - files_of(snapshots.after(step.after))
        known = {trial.row for trial in trials}
        new = {kind: files for kind, files in kinds_among(written).items() if kind not in known}
        trials += _of_kinds(snapshots, random, new, step, snapshots.after(step.name), step, "again")
        for kind, files in new.items():
            if readers := _readers(snapshots, step) if is_result(Path(kind)) else []:
                reader = random.choice(readers)
                before = snapshots.after(reader.after)
                trials += _of_kinds(snapshots, random, {kind: files}, step, before, reader, "read")
    for name in sorted(UNFINISHED.keys() & snapshots.undisturbed.keys()):
        step, before = STEPS[name], snapshots.unfinished(name)
        kinds = kinds_among(files_of(before) - files_of(snapshots.after(step.after)))
        named = {f"{kind} (unfinished {name})": files for kind, files in kinds.items()}
        trials += _of_kinds(snapshots, random, named, step, before, step, "again")
    return trials


def _writers(snapshots: Snapshots) -> list[Step]:
    names = snapshots.undisturbed.keys() - {"run"}
    return [step for step in STEPS.values() if step.name in names]


def _readers(snapshots: Snapshots, writer: Step) -> list[Step]:
    """The steps that read a step's files; those of `train` read the same files of `train_grid`."""
    name = "train_grid" if writer.name == "train" else writer.name
    return [step for step in _writers(snapshots) if name in step.reads]


def _of_kinds(
    snapshots: Snapshots,
    random: Random,
    kinds: Mapping[str, list[str]],
    writer: Step,
    before: Path,
    step: Step,
    when: str,
) -> list[Trial]:
    trials = []
    for kind, files in kinds.items():
        for way in WAYS:
            path = random.choice(files)
            read, seed = when == "read", random.getrandbits(64)
            do = partial(_damaged, snapshots, before, step, path, way, seed, read)
            fault = f"{way}, then {step.name}" if read else way
            trials.append(Trial("damaged", kind, fault, do))
    return trials


def _damaged(
    snapshots: Snapshots,
    before: Path,
    step: Step,
    path: str,
    way: str,
    seed: int,
    read: bool,
    room: Path,
) -> Verdict | None:
    directory = room / "study"
    damaged = directory / OUTPUTS / path
    snapshots.place(before, directory)
    times = damaged.stat()
    if path.startswith(
        f"{COPY}/activations/"
    ):  # what is trained already needs no copy, so nothing would read it
        shutil.rmtree(directory / OUTPUTS / COPY / "sae", ignore_errors=True)
    if not WAYS[way](damaged, Random(seed)):
        return None
    if read and way == "one bit":
        # As a disk does it, without another time: whoever reads the file must notice.
        os.utime(damaged, ns=(times.st_atime_ns, times.st_mtime_ns))
    reference = snapshots.after(step.name)
    return to_the_end(step, directory, reference, unread=path if read else None)
