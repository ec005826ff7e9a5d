"""From the command line to a stage: help, checks, the stage itself, and one message where it ends
otherwise than well.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Callable
from contextlib import nullcontext
from difflib import get_close_matches
from typing import Any

from diffusae.cli.stage_list import ENDLESS, FUNCTIONS, POSITIONAL, STAGES, UNCHECKED
from diffusae.errors import USER_FAULT
from diffusae.masking import mask_output, masked
from diffusae.memory import importing
from diffusae.stopping import StopSignal, received, stopped_by_signals

_HOW = {signal.SIGINT: "interrupted", signal.SIGTERM: "stopped by SIGTERM"}


class _Failed(BaseException):
    """Carries the error of a single job past Hydra, which would print a line of its own before the
    message.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


def main() -> None:
    """Run the stage that the first argument names."""
    mask_output()
    with stopped_by_signals():
        try:
            _main(sys.argv[1:])
            if sys.stdout is not None:
                sys.stdout.flush()
        except BrokenPipeError:
            _leave_pipe()


def _main(arguments: list[str]) -> None:
    stage = arguments[0] if arguments else "help"
    if stage in ("-h", "--help", "help") and arguments[1:2] and arguments[1] in STAGES:
        stage, arguments = arguments[1], [arguments[1], "--help"]
    try:
        _answer(stage, arguments[1:])
    except (SystemExit, KeyboardInterrupt) as error:
        number = _signal_of(error)
        if number is None:
            raise
        raise SystemExit(_stopped(stage, number)) from None
    except BrokenPipeError:
        raise
    except (Exception, _Failed) as caught:
        error = caught.error if isinstance(caught, _Failed) else caught
        if (number := received()) is not None:  # what a signal to stop broke on its way
            raise SystemExit(_stopped(stage, number)) from None
        if _told_of_jobs(error):
            raise SystemExit(USER_FAULT) from None
        message = _explained(error, stage)
        if message is None:
            raise error from error.__cause__
        print(masked(f"diffusae {stage}: {message}"), file=sys.stderr)
        raise SystemExit(USER_FAULT) from None


def _answer(stage: str, arguments: list[str]) -> None:
    from diffusae.cli.help import usage, versions
    from diffusae.cli.surroundings import settle

    settle()
    if stage in ("-h", "--help", "help"):
        print(usage())
    elif stage in ("-V", "--version", "version") or "--version" in arguments:
        print(versions())
    elif stage not in STAGES:
        close = get_close_matches(stage, STAGES, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        if stage.startswith("-") or "=" in stage:
            hint = " The stage comes first: diffusae STAGE [overrides]."
        print(f"diffusae: unknown stage {stage!r}.{hint}\n\n{usage()}", file=sys.stderr)
        raise SystemExit(USER_FAULT)
    else:
        _run(stage, arguments)


def _run(stage: str, arguments: list[str]) -> None:
    from diffusae.cli.arguments import CommandLine
    from diffusae.cli.config_files import search_own_options
    from diffusae.cli.configs import config_directory
    from diffusae.cli.help import stage_help
    from diffusae.cli.logs import where_logs_go
    from diffusae.plugins import use
    from diffusae.study.resolvers import register_resolvers

    register_resolvers()
    line = CommandLine.parse(arguments, bare=POSITIONAL.get(stage))
    use(line.plugins())  # before anything is composed: their packages bring options of groups
    search_own_options()
    if line.help:
        print(stage_help(stage, line))
        return
    cfg = line.checked(stage)
    logs = [] if line.shows else where_logs_go(cfg, multirun=line.multirun)
    if logs:
        print(
            f"diffusae {stage}: nothing can be written to the study's logs; they are shown here"
            " alone",
            file=sys.stderr,
        )
    import hydra

    # Overrides first: one of Hydra's flags would take the next word for its value.
    sys.argv = [f"diffusae {stage}", *line.overrides, *logs, *line.flags]
    hydra.main(version_base="1.3", config_path=str(config_directory()), config_name=stage)(
        _task(stage)
    )()


def _task(stage: str) -> Callable[[Any], object]:
    """The stage as Hydra's task, imported when its first job begins: in this process, or in one of
    a launcher's.
    """

    def task(cfg: Any) -> object:
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        from diffusae.cli.surroundings import quieten
        from diffusae.jobs.progress import at_work
        from diffusae.plugins import use
        from diffusae.study.resolvers import expand_home
        from diffusae.study.study import Study

        try:
            expand_home(cfg)
            use(cfg.get("plugins", ()))  # the miniature has none
            if stage not in UNCHECKED:  # before the stage is imported, which takes seconds
                Study(cfg).check()
            with importing():
                function = _function(stage)
            quieten()
            with nullcontext() if stage in ENDLESS else at_work(stage):
                return function(cfg)
        except Exception as error:
            if HydraConfig.get().mode == RunMode.MULTIRUN:  # the table of jobs tells it
                raise
            raise _Failed(error) from None

    task.__module__ = (  # by which Hydra names the log
        f"diffusae.stages.{FUNCTIONS.get(stage, stage)}"
    )
    return task


def _function(stage: str) -> Callable[[Any], object]:
    name = FUNCTIONS.get(stage, stage)
    return getattr(importlib.import_module(f"diffusae.stages.{name}"), name)


def _signal_of(error: BaseException) -> int | None:
    """The signal that ended the work, or None for an exit of another kind."""
    if isinstance(error, StopSignal):
        return error.number
    if isinstance(error, KeyboardInterrupt):
        return signal.SIGINT
    # Lightning's answer to SIGTERM, once the training's checkpoint is written, is an exit without a
    # code.
    return signal.SIGTERM if type(error).__name__ == "SIGTERMException" else received()


def _stopped(stage: str, number: int) -> int:
    """Tell that a signal ended the work, in one line; the exit code."""
    if (outcomes := sys.modules.get("diffusae.jobs.outcomes")) is not None:
        outcomes.OutcomeTable.open = None  # there is no table of what was not finished
    how = _HOW.get(signal.Signals(number), f"stopped by signal {number}")
    print(f"diffusae {stage}: {how}; the same command goes on", file=sys.stderr)
    return 128 + number


def _leave_pipe() -> None:
    """Whoever read the output has gone (`| head`): end quietly, as programs that SIGPIPE ends."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, sys.stdout.fileno())
    raise SystemExit(128 + signal.SIGPIPE)


def _told_of_jobs(error: Exception) -> bool:
    """Whether a multirun that its launcher broke off has been told job by job."""
    outcomes = sys.modules.get(
        "diffusae.jobs.outcomes"
    )  # no multirun has begun where it is not imported
    return (
        outcomes is not None
        and outcomes.OutcomeTable.open is not None
        and outcomes.OutcomeTable.open.end_broken(error)
    )


def _explained(error: BaseException, stage: str) -> str | None:
    """One message for a fault of the user's, None for a fault of ours."""
    from hydra.errors import HydraException

    from diffusae.jobs.faults import explained

    message = explained(error)
    if message is not None and isinstance(error, HydraException):
        message += f"\n`diffusae {stage} --help` lists the groups and their options"
    return message
