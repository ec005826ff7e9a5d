"""What a process finds around it: a home, a terminal, a disk that takes logs, libraries that talk
too much.
"""

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

# Devices and tips, told again for every cell; every request to a hub; caches of figures.
_QUIET = ("pytorch_lightning", "lightning_fabric", "httpx", "httpx2", "matplotlib")


def settle() -> None:
    """Before anything is imported: a home for libraries that keep caches, and streams that take any
    character.
    """
    os.environ["HYDRA_FULL_ERROR"] = (
        "1"  # errors come to the command as they are, and are told once
    )
    for library in (
        "TRANSFORMERS",
        "DIFFUSERS",
    ):  # they warn at every import or load of what does not matter here
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    _quieten_warnings()
    _give_home()
    logging.raiseExceptions = (
        False  # a log whose reader has gone (`| head`) is no fault of the work
    )
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(
                errors="backslashreplace"
            )  # a caption of any language on a terminal of ASCII


def _give_home() -> None:
    """A container may run as a user without a name and a home, whom half of all libraries cannot do
    without.
    """
    if os.path.expanduser("~") != "~":
        return
    home = tempfile.mkdtemp(prefix="diffusae-home-")
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    os.environ["HOME"] = home
    if not any(os.environ.get(name) for name in ("LOGNAME", "USER", "LNAME", "USERNAME")):
        os.environ["USER"] = f"uid{os.getuid()}"


def _quieten_warnings() -> None:
    # Our options of hydra/launcher have the names of the plugins' own, whose types they keep.
    for message in (
        ".*LeafSpec.*",
        ".*smaller than the logging interval.*",
        r"\s*'hydra/launcher/",
    ):
        warnings.filterwarnings("ignore", message=message)


def _is_worth_reading(record: logging.LogRecord) -> bool:
    """Whether a log record is not small talk of a library."""
    return record.levelno >= logging.WARNING or record.name.partition(".")[0] not in _QUIET


def quieten() -> None:
    """After a stage is imported: no bars and warnings of libraries that nobody can act on."""
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
