"""diffusae: which concepts a text-to-image diffusion model holds at each moment of generation,
where, and to what effect.

In a notebook: `study = diffusae.open("outputs/miniature")`; docs/python.md goes on from there.
Importing this package imports no library; `open` and `load_model` do.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from diffusae.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from diffusae.exploring.opened import OpenModel, OpenStudy

__all__ = ["UserError", "load_model", "open"]


def open(directory: Path | str, *overrides: str, model_source: str | None = None) -> OpenStudy:
    """Open a finished study.

    Args:
        directory: what `diffusae run` or its stages wrote, such as "outputs/miniature".
        overrides: settings as a command takes them, such as "experiment=miniature"; without any,
            the values that the study's run.json holds.
        model_source: the folder or the hub id of the model, where it is not the one of diffusae's
            own configuration: a study's files alone never decide what is loaded.

    Raises:
        UserError: there is no study in the directory, a record is damaged, an override cannot be,
            or the record names a model source of its own.
    """
    _quieten()
    from diffusae.opening import open_study

    return open_study(directory, overrides, model_source=model_source)


def load_model(name: str, *overrides: str) -> OpenModel:
    """Load a model without a study.

    Args:
        name: an option of the configuration's group `model`, such as "miniature" or "sd14".
        overrides: further settings, such as "model.steps=20".

    Raises:
        UserError: there is no such model; those that there are are listed.
    """
    _quieten()
    from diffusae.opening import load_model

    return load_model(name, overrides)


def _quieten() -> None:
    """Libraries warn at their import of what does not matter here; who wants that sets it."""
    for library in ("TRANSFORMERS", "DIFFUSERS"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
