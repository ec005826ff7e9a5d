"""Reading what another library wrote: JSON and safetensors only, with every fault told to the user."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from diffusae.errors import UserError

CONFIG_NAME = "cfg.json"


def read_config(directory: Path) -> dict[str, Any]:
    """`cfg.json` as a dict; `UserError` where it is missing or no JSON object."""
    path = directory / CONFIG_NAME
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing; name the directory that holds it beside the weights: source=DIR"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not readable as JSON ({error}); copy or save it again") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} must hold a JSON object, holds a {type(value).__name__}; save it again")
    return value


def read_weights(path: Path, names: Collection[str]) -> dict[str, Tensor]:
    """The tensors of exactly these names, in float64, so that what is folded in is rounded once.

    Raises:
        UserError: the file is missing or damaged, lacks a tensor or has one that we would ignore.
    """
    try:
        found = load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; copy or save it again") from None
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} is not readable as safetensors ({error}); copy or save it again") from error
    if found.keys() != set(names):
        raise UserError(
            f"{path} must hold {', '.join(sorted(names))}, holds {', '.join(sorted(found)) or 'nothing'}; "
            "only plain autoencoders of the named kind can be imported"
        )
    return {name: tensor.double() for name, tensor in found.items()}


def require(config: Mapping[str, Any], name: str, *allowed: Any, why: str) -> None:
    """`UserError` unless the value is one of `allowed` or absent; `why` ends the sentence with a remedy."""
    if config.get(name, allowed[0]) not in allowed:
        shown = " or ".join(json.dumps(value) for value in allowed)
        raise UserError(f"{CONFIG_NAME}: {name}={json.dumps(config[name])} must be {shown}: {why}")


def whole_number(config: Mapping[str, Any], name: str) -> int:
    """A whole number from 1; `UserError` for anything else."""
    value = config.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(
            f"{CONFIG_NAME}: {name}={json.dumps(value)} must be a whole number from 1; save it again"
        )
    return value
