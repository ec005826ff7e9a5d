"""Doing what a message says: `remove PATH`, `move PATH away`, or run the command that it names.
Nothing is guessed.

Where a message names a stage and, as another way, `diffusae run`, the stage is run; of several
cells, for each.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from faults.command import run
from faults.study import Step, chain_before

_COMMAND = re.compile(r"`diffusae (\w+)")
_PATH = re.compile(r"outputs/[^\s:;,'\"()]+")
_AWAY = re.compile(r"\b(remove|move)\b")
ROUNDS = 3
"""Remedies that a command needs at the most before it ends well."""
_ALONE = {"train_grid": "train"}
"""A stage that does the work of another one over the whole grid."""
_SAME = re.compile(r"run (?:the same command|it) again|the same command")


def message_of(said: str) -> str:
    """What a command said last, from its own name on."""
    lines = said.strip().splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith("diffusae ")]
    return "\n".join(lines[starts[-1] :]) if starts else ""


def carry_out(message: str, directory: Path, before: Step) -> str | None:
    """Do what the message says and tell what was done; None: it says nothing that can be done.

    Args:
        message: of the command of `before`, which is run again afterwards.
        directory: of the study.
    """
    done = []
    if _AWAY.search(message):
        named = [directory / path.rstrip(".") for path in _PATH.findall(message)]
        there = next((path for path in named if path.exists() or path.is_symlink()), None)
        if there is not None:
            shutil.rmtree(there) if there.is_dir() else there.unlink()
            done.append(f"removed {there.relative_to(directory)}")
    commands = set(_COMMAND.findall(message))
    stages = (commands - {"run"} or commands) - {before.stage}
    for step in chain_before(before):
        if stages & {step.stage, _ALONE.get(step.stage), "run"}:
            done.append(_run_through(step, directory))
    if done:
        return ", ".join(done)
    return "the same command" if _SAME.search(message) or before.stage in commands else None


def _run_through(step: Step, directory: Path) -> str:
    """Run a step that a message names, and do what its own messages say."""
    ended, told = run(step.command, directory), step.name
    for _ in range(ROUNDS):
        if (
            ended.code == 0
            or (further := carry_out(message_of(ended.stderr), directory, step)) is None
        ):
            break
        ended, told = run(step.command, directory), f"{told} ({further})"
    return told if ended.code == 0 else f"{told} (exit {ended.code})"
