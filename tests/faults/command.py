"""One `diffusae` command in a process of its own, and the signal that may interrupt it.

The process is forked from this one, which has imported all that the stages need, because importing
takes longer than a small stage. It is a real process in its own session, and gets real signals.
"""

import atexit
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusae import cli

TIME_LIMIT_S = 600.0
AGAIN_S = 0.05
"""Between the first and the second signal of a double blow."""
NOTES = ("stdout.txt", "stderr.txt", "writes.txt", "struck.txt")


@dataclass(frozen=True)
class Blow:
    """A signal that interrupts a command.

    Args:
        signal: SIGKILL, SIGTERM or SIGINT.
        after_s: seconds after the start; None: see `write`.
        write: the number, from 1, of the write to a file below the directory (opening, renaming,
            removing) at which it comes; None: see `after_s`.
        twice: a second signal follows shortly after, as by an impatient user.
    """

    signal: signal.Signals
    after_s: float | None = None
    write: int | None = None
    twice: bool = False


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Args:
        code: the exit code as a shell shows it.
        seconds: from start to end.
        writes: writes to files below the directory; 0 for a killed command.
        hit: whether the blow came before the end.
    """

    code: int
    stdout: str
    stderr: str
    seconds: float
    writes: int
    hit: bool


def run(
    arguments: Sequence[str],
    directory: Path,
    blow: Blow | None = None,
    *,
    notes: Path | None = None,
) -> Ended:
    """Run `diffusae ARGUMENTS` in `directory`; its output is written below `notes` or there."""
    notes = notes or directory
    begun = time.monotonic()
    pid = os.fork()
    if pid == 0:
        _be_the_command(arguments, directory, notes, blow)
    hit = _strike(pid, blow) if blow is not None and blow.after_s is not None else False
    code = os.waitstatus_to_exitcode(_wait(pid, TIME_LIMIT_S))
    seconds = time.monotonic() - begun
    stdout, stderr, writes, struck = (_taken(notes / name) for name in NOTES)
    code = 128 - code if code < 0 else code
    return Ended(code, stdout, stderr, seconds, int(writes or 0), hit or bool(struck))


def _taken(path: Path) -> str:
    """The text of a note, which is removed; empty if it does not exist."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    finally:
        path.unlink(missing_ok=True)


def _strike(pid: int, blow: Blow) -> bool:
    """Send the signal in time; False: the command had already ended."""
    assert blow.after_s is not None
    if _wait(pid, blow.after_s, reap=False) is not None:
        return False
    os.kill(pid, blow.signal)
    if blow.twice and _wait(pid, AGAIN_S, reap=False) is None:
        os.kill(pid, blow.signal)
    return True


def _wait(pid: int, seconds: float, *, reap: bool = True) -> Any:
    """The status of an ended process; after `seconds` None, or with `reap` it is killed."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if reap:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                return status
        elif os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return 0
        time.sleep(0.003)
    if not reap:
        return None
    os.killpg(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]


def _be_the_command(
    arguments: Sequence[str], directory: Path, notes: Path, blow: Blow | None
) -> None:
    """In the new process: run the command, and never return."""
    os.setsid()
    os.chdir(directory)
    for number, path in enumerate((Path(os.devnull), notes / NOTES[0], notes / NOTES[1])):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), number)
    for number in (signal.SIGINT, signal.SIGTERM):  # until `main` takes them
        signal.signal(number, signal.SIG_DFL)
    sys.argv = ["diffusae", *arguments]
    writes, code = Writes(directory, notes, blow), 1
    sys.addaudithook(writes)
    try:
        code = _exit_code(cli.main)
        count = writes.count
        (notes / NOTES[2]).write_text(str(count), encoding="utf-8")
    finally:
        os._exit(code)


def _exit_code(main: Callable[[], None]) -> int:
    """The exit code that the interpreter itself would give to the end of `main`."""
    code = 0
    try:
        main()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
    except KeyboardInterrupt:
        traceback.print_exc()
        code = 128 + signal.SIGINT
    except BaseException:
        traceback.print_exc()
        code = 1
    try:
        for thread in threading.enumerate():
            if thread is not threading.current_thread() and not thread.daemon:
                thread.join()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    return code


class Writes:
    """An audit hook that counts the writes below a directory, and sends the blow at its write."""

    def __init__(self, directory: Path, notes: Path, blow: Blow | None) -> None:
        self.directory, self.notes, self.blow = directory, notes, blow
        self.count = 0

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in ("open", "os.rename", "os.remove") or not _is_write(event, arguments):
            return
        if self.directory not in (self.directory / os.fsdecode(arguments[0])).parents:
            return
        self.count += 1
        if self.blow is not None and self.count == self.blow.write:
            os.write(os.open(self.notes / NOTES[3], os.O_CREAT | os.O_WRONLY), b"struck")
            for _ in range(1 + self.blow.twice):
                os.kill(os.getpid(), self.blow.signal)


def _is_write(event: str, arguments: tuple[Any, ...]) -> bool:
    """Whether an audit event changes a file; `open` has a mode, or flags if from `os.open`."""
    if not isinstance(arguments[0], str | bytes | os.PathLike):
        return False
    if event != "open":
        return True
    _, mode, flags = arguments
    return bool(flags & (os.O_WRONLY | os.O_RDWR) if mode is None else set(mode) & set("wax+"))
