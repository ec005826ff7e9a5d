"""The command `diffusae` in a process of its own, forked from a server that has imported what the
stages need.

`python -m diffusae` imports for ten seconds on a slow machine; a forked process is there at once.
It has a process group, exit codes and signals as any other, and its output goes to files.
"""

import atexit
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from multiprocessing import forkserver
from pathlib import Path
from unittest.mock import patch

from diffusae.cli import FUNCTIONS, STAGES

_ENVIRONMENT = dict(os.environ)
_FORKS = multiprocessing.get_context("forkserver")
_IMPORTS = [
    *(f"diffusae.stages.{FUNCTIONS.get(stage, stage)}" for stage in STAGES),
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
]


def serve() -> None:
    """Start the server of this test process, unless it runs. Whatever else forks from it has the
    imports as well.
    """
    _FORKS.set_forkserver_preload(_IMPORTS)
    # Its modules are those of the tests, wherever the package is installed from, and see nothing
    # that one test set.
    path = os.pathsep.join(filter(None, sys.path))
    with patch.dict(os.environ, {**_ENVIRONMENT, "PYTHONPATH": path}, clear=True):
        forkserver.ensure_running()


class Started:
    """A command that runs. `arguments` are what stands after `diffusae`; `environment` replaces
    that of the tests.
    """

    def __init__(self, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        self.arguments = arguments
        self._directory = tempfile.TemporaryDirectory(prefix="diffusae-command-")
        self._outputs = tuple(Path(self._directory.name) / name for name in ("stdout", "stderr"))
        for path in self._outputs:
            path.touch()
        given = dict(os.environ if environment is None else environment)
        self._process = _FORKS.Process(target=_run, args=(arguments, given, self._outputs))
        serve()
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        """The exit code, below zero the signal that ended it, None while it runs."""
        return self._process.exitcode

    def kill(self, how: int = signal.SIGKILL) -> None:
        """Send a signal to the command and to every process that it has started."""
        os.killpg(self.pid, how)

    def ended(self, timeout: float = 280) -> subprocess.CompletedProcess[str]:
        """Its exit code and output at its end; it is killed after `timeout` seconds."""
        self._process.join(timeout)
        if self.poll() is None:
            self.kill()
            raise subprocess.TimeoutExpired(self.arguments, timeout, *self._texts())
        code = self.poll()
        assert code is not None
        return subprocess.CompletedProcess(self.arguments, code, *self._texts())

    def _texts(self) -> list[str]:
        return [path.read_text(encoding="utf-8") for path in self._outputs]


def diffusae(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """The command, run to its end; with `check` it must succeed."""
    done = Started(*arguments).ended()
    assert not check or done.returncode == 0, done.stderr[-3000:]
    return done


def _run(
    arguments: tuple[str, ...], environment: dict[str, str], outputs: tuple[Path, Path]
) -> None:
    """In the forked process: what `python -m diffusae` does."""
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    for descriptor, path in enumerate(outputs, 1):
        with path.open("wb") as file:
            os.dup2(file.fileno(), descriptor)
    sys.argv = ["diffusae", *arguments]
    from diffusae.cli import main

    try:
        main()
    finally:
        atexit._run_exitfuncs()  # which multiprocessing leaves out
