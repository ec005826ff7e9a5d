"""Commands that a reader can copy: what made a run, and what edits a picture."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

from diffusae.runs.record import RunRecord
from diffusae.summaries.emergence import STAGE as EMERGENCE
from diffusae.summaries.three_stages import STAGE as THREE_STAGES

_OF_NO_CELL = ("collect", "annotate", "report")


def command(stage: str, overrides: Mapping[str, Any]) -> str:
    """The command of a stage for a shell; overrides without a value are left out."""
    words = [f"{key}={value}" for key, value in overrides.items() if value is not None]
    return " ".join(["diffusae", stage, *map(_for_shell, words)])


def command_of(record: RunRecord) -> str:
    """The command that makes a run again. The study's other overrides belong to it: a record holds
    their values and not how they were given.
    """
    config = record.config
    stage = "report" if record.stage in (EMERGENCE, THREE_STAGES) else record.stage
    overrides = {"name": config.get("name"), "model": _entry(config, "model", "name")}
    if stage == "evaluate":
        overrides["evaluation"] = _entry(config, "evaluation", "name")
    if stage not in _OF_NO_CELL:
        overrides |= {
            "block.name": _entry(config, "block", "name"),
            "timestep.t": _entry(config, "timestep", "t"),
            "conditioning.branch": _entry(config, "conditioning", "branch"),
            "sae.k": _entry(config, "sae", "k"),
            "sae.tag": _entry(config, "sae", "tag"),
        }
    return command(stage, overrides)


def _entry(config: Mapping[str, Any], part: str, name: str) -> Any:
    """One value of a record, whose file may hold anything."""
    values = config.get(part)
    value = values.get(name) if isinstance(values, Mapping) else None
    return value if isinstance(value, str | int | float) else None


def text(value: str) -> str:
    """A text as Hydra reads it back unchanged."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'").replace("${", "\\${") + "'"


def _for_shell(word: str) -> str:
    """In double quotes where nothing in them means something to a shell: these are easy to read."""
    if shlex.quote(word) == word or re.search(r'["\\$`!]', word):
        return shlex.quote(word)
    return f'"{word}"'
