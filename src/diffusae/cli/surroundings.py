"""The surroundings of a process: home, terminal, and libraries that log too much."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import sys
import tempfile
import warnings
from typing import Any

from diffusae.memory import keep_freed_memory

# They log devices and tips for every cell, requests to hubs, and caches of fonts.
_QUIET = ("pytorch_lightning", "lightning_fabric", "httpx", "httpx2", "matplotlib")


def settle() -> None:
    """Prepare the process before other imports: warnings, a home, streams for any character."""
    # The command itself reports errors, once.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    # Both libraries warn at imports and loads about what does not matter here.
    for library in ("TRANSFORMERS", "DIFFUSERS"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    _quieten_warnings()
    _give_home()
    # A log whose reader has gone (`| head`) is no fault of the work.
    logging.raiseExceptions = False
    for stream in (sys.stdout, sys.stderr):
        if (reconfigure := getattr(stream, "reconfigure", None)) is not None:
            # A caption of any language on an ASCII terminal
            reconfigure(errors="backslashreplace")


def _give_home() -> None:
    """Give a container's user a name and a home, since many libraries need both."""
    if os.path.expanduser("~") != "~":
        return
    home = tempfile.mkdtemp(prefix="diffusae-home-")
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    os.environ["HOME"] = home
    if not any(os.environ.get(name) for name in ("LOGNAME", "USER", "LNAME", "USERNAME")):
        os.environ["USER"] = f"uid{os.getuid()}"


def _quieten_warnings() -> None:
    # The last one: our options of hydra/launcher have the names and types of the plugins' own.
    messages = (".*LeafSpec.*", ".*smaller than the logging interval.*", r"\s*'hydra/launcher/")
    for message in messages:
        warnings.filterwarnings("ignore", message=message)


def _is_worth_reading(record: logging.LogRecord) -> bool:
    """Whether a log record is not small talk of a library."""
    return record.levelno >= logging.WARNING or record.name.partition(".")[0] not in _QUIET


def quieten() -> None:
    """Silence bars and warnings of libraries that nobody can act on, after a stage is imported."""
    keep_freed_memory()
    # Not by the loggers' levels: Lightning sets its own when it is imported, which may come later.
    for handler in logging.getLogger().handlers:
        handler.addFilter(_is_worth_reading)
    _quieten_warnings()
    for library in ("transformers", "diffusers"):
        talking: Any = sys.modules.get(f"{library}.utils.logging")
        if talking is not None:
            talking.disable_progress_bar()
            talking.set_verbosity_error()
