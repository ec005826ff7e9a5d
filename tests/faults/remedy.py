"""Following a message: `remove PATH`, `move PATH away`, or the command that it names; no guesses.

If a message names a stage and `diffusae run` as an alternative, the stage is run, for every cell.
"""

import re
import shutil
from pathlib import Path

from faults.command import run
from faults.study import Step, chain_before

_COMMAND = re.compile(r"`diffusae (\w+)")
_PATH = re.compile(r"outputs/[^\s:;,'\"()]+")
_AWAY = re.compile(r"\b(remove|move)\b")
ROUNDS = 3
"""The most remedies that a command may need."""
_ALONE = {"train_grid": "train"}
"""A stage that does the work of another one over the whole grid."""
_SAME = re.compile(r"run (?:the same command|it) again|the same command")


def message_of(said: str) -> str:
    """The last message of a command, from its own name on."""
    lines = said.strip().splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith("diffusae ")]
    return "\n".join(lines[starts[-1] :]) if starts else ""


def carry_out(message: str, directory: Path, before: Step) -> str | None:
    """Follow a message and say what was done; None: it names nothing that can be done.

    Args:
        message: of the command of `before`, which is run again afterwards.
        directory: the study.
    """
    done = []
    if _AWAY.search(message):
        named = [directory / path.rstrip(".") for path in _PATH.findall(message)]
        present = next((path for path in named if path.exists() or path.is_symlink()), None)
        if present is not None:
            shutil.rmtree(present) if present.is_dir() else present.unlink()
            done.append(f"removed {present.relative_to(directory)}")
    commands = set(_COMMAND.findall(message))
    stages = (commands - {"run"} or commands) - {before.stage}
    for step in chain_before(before):
        if stages & {step.stage, _ALONE.get(step.stage), "run"}:
            done.append(_run_through(step, directory))
    if done:
        return ", ".join(done)
    return "the same command" if _SAME.search(message) or before.stage in commands else None


def _run_through(step: Step, directory: Path) -> str:
    """Run a step that a message names, and follow its own messages."""
    ended, summary = run(step.command, directory), step.name
    for _ in range(ROUNDS):
        if ended.code == 0:
            break
        further = carry_out(message_of(ended.stderr), directory, step)
        if further is None:
            break
        ended, summary = run(step.command, directory), f"{summary} ({further})"
    return summary if ended.code == 0 else f"{summary} (exit {ended.code})"
