"""Settings that become the names of files and directories."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError

LONGEST_BYTES = 180
"""Of one name. File systems take 255; suffixes and the rest of a cell's name need some of them."""

NESTED = ("name", "with_text.name", "evaluation.random_activations")
"""May hold slashes, for a directory below a directory."""

PLAIN = ("block.name", "sae.tag", "evaluation.other_tag", "with_text.sae_tag")
LISTS = ("grid.blocks",)


def name_faults(cfg: DictConfig) -> Iterator[str]:
    """Every setting that cannot be the name of a file.

    Left out are settings that are absent or null, except `name`, and those that need Hydra's own
    values (`${hydra:runtime.choices.sae}`) before a job runs.
    """
    for setting in (*NESTED, *PLAIN):
        try:
            value = OmegaConf.select(cfg, setting)
        except InterpolationResolutionError:
            continue
        if value is not None and (fault := name_fault(setting, value, nested=setting in NESTED)):
            yield fault
    if "name" in cfg and cfg.name is None:
        yield "name=null is empty; give the experiment a name"
    for setting in LISTS:
        for value in OmegaConf.select(cfg, setting) or []:
            if fault := name_fault(setting, value):
                yield fault


def name_fault(setting: str, value: Any, *, nested: bool = False) -> str | None:
    """Why `value` cannot be the name of a file or directory; None where it can.

    Args:
        nested: whether it may hold slashes, each part a name of its own.
    """
    shown = f"{setting}={value!r}"
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return f"{shown} must be a name: letters, digits, '-', '_', '.'; give one"
    text = str(value)
    if not text.strip():
        return f"{setting} is empty; give it a name, such as {setting}=first"
    if re.search(r"[\x00-\x1f\x7f\\]", text):
        return f"{shown} has a character that does not belong in a file name; leave it out"
    if text.startswith("~"):
        return (
            f"{shown} begins with '~', but it is a name, not a path; set paths.outputs to another"
            " place"
        )
    if text.startswith("/"):
        return (
            f"{shown} is a path, and must be a name below paths.outputs; set paths.outputs to"
            " another place"
        )
    parts = text.split("/")
    if len(parts) > 1 and not nested:
        return f"{shown} holds a '/', and becomes the name of one directory; leave it out"
    if any(part in ("", ".", "..") for part in parts):
        return (
            f"{shown} leads out of its place or to itself ('.', '..' or nothing between slashes);"
            " give plain names"
        )
    if any(part != part.strip() for part in parts):
        return f"{shown} begins or ends with a space; leave it out"
    if any(len(part.encode()) > LONGEST_BYTES for part in parts):
        return f"{shown[:60]}... is longer than {LONGEST_BYTES} bytes; give a shorter one"
    return None
