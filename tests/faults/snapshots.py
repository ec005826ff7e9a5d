"""The undisturbed study after every step: the start and the reference of all trials."""

import importlib
import os
import pkgutil
import shutil
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from diffusae import stages
from faults.command import Blow, Ended, run
from faults.study import OUTPUTS, SOURCE, STEPS, Step

UNFINISHED: dict[str, Callable[[Path], bool]] = {
    "collect": lambda outputs: len(list(outputs.glob("*/activations/groups/0*.json"))) == 2,
    "train": lambda outputs: len(list(outputs.glob("*/sae/*/checkpoints/*.json"))) == 2,
    "train_grid": lambda outputs: len(list(outputs.glob("*/sae/.grid*/checkpoints/*.json"))) == 2,
}
"""Steps with files that exist only while they work -> whether some of these exist."""


@dataclass(frozen=True)
class Snapshots:
    """Copies of the study, one for every step.

    Args:
        root: their folder.
        undisturbed: step -> how it ended.
    """

    root: Path
    undisturbed: dict[str, Ended]

    def after(self, name: str | None) -> Path:
        """The study after a step; None: an empty directory."""
        return self.root / ("nothing" if name is None else name)

    def unfinished(self, name: str) -> Path:
        """The study whose step was killed midway."""
        return self.root / f"{name}, unfinished"

    def place(self, source: Path, directory: Path) -> None:
        """Copy `source` into an empty directory, with its times."""
        shutil.copytree(source, directory, dirs_exist_ok=True, symlinks=True)


def import_all() -> None:
    """Import all that the stages need; the commands' processes are forked from this one."""
    for library in ("TRANSFORMERS", "DIFFUSERS"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    for module in pkgutil.iter_modules(stages.__path__, "diffusae.stages."):
        importlib.import_module(module.name)


def build(root: Path, steps: Sequence[Step]) -> Snapshots:
    """Run the steps undisturbed, keep the study after every step, then make the unfinished ones."""
    snapshots = Snapshots(root, {})
    snapshots.after(None).mkdir(parents=True)
    os.environ[SOURCE] = str(root / "collect" / OUTPUTS / "tiny" / "activations")
    for step in steps:
        directory = snapshots.after(step.name)
        snapshots.place(snapshots.after(step.after), directory)
        ended = run(step.command, directory)
        if ended.code:
            output = f"{ended.stdout}\n{ended.stderr}"
            raise SystemExit(f"the undisturbed {step.name} failed with {ended.code}:\n{output}")
        snapshots.undisturbed[step.name] = ended
        print(f"{step.name}: {ended.seconds:.1f} s, {ended.writes} writes", flush=True)
    for name in UNFINISHED.keys() & snapshots.undisturbed.keys():
        _kill_midway(snapshots, STEPS[name])
    return snapshots


def _kill_midway(snapshots: Snapshots, step: Step) -> None:
    directory = snapshots.unfinished(step.name)
    writes = snapshots.undisturbed[step.name].writes
    for write in range(4, writes + 1, max(4, writes // 20)):
        snapshots.place(snapshots.after(step.after), directory)
        run(step.command, directory, Blow(signal.SIGKILL, write=write))
        if UNFINISHED[step.name](directory / OUTPUTS):
            return
        shutil.rmtree(directory)
    raise SystemExit(f"{step.name} is half done at no moment that was tried")
