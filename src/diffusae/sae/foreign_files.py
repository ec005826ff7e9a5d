"""Reading the files of another library, JSON and safetensors only; faults are `UserError`s."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from diffusae.errors import UserError, together
from diffusae.parsing import read_json, reading, shown
from diffusae.tensor_files import read_header, read_tensors

CONFIG_NAME = "cfg.json"
_FLOATS = ("F64", "F32", "F16", "BF16")


def read_config(directory: Path) -> dict[str, Any]:
    """`cfg.json` as a dict; `UserError` where it is missing or no JSON object."""
    path = directory / CONFIG_NAME
    try:
        return read_json(path, remedy="copy or save it again")
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing; name the directory that holds it beside the weights: source=DIR"
        ) from None


def read_weights(
    path: Path,
    axes: Mapping[str, int],
    sizes: Mapping[str, Any],
    *,
    of: str = "W_dec",
    ignored: Collection[str] = (),
    where: str = CONFIG_NAME,
) -> dict[str, Tensor]:
    """The tensors of exactly these names, in float64, so that what is folded in is rounded once.

    Args:
        path: of the safetensors file.
        axes: name -> how many axes the tensor has.
        sizes: the two axes of the tensor `of`, in order, by the names that the configuration has
            for them; a value is None where the configuration does not name it.
        ignored: tensors that may be there and are left out: counts of the training.
        where: the configuration's file, for messages.

    Raises:
        UserError: the file is missing or damaged, lacks a tensor or has one that is neither read
            nor ignored, a tensor is not made of floats or has other axes, or `of` another size
            than the configuration says.
    """
    remedy = "copy or save it again"
    try:
        header = read_header(path, remedy=remedy)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; {remedy}") from None
    if header.shapes.keys() - set(ignored) != axes.keys():
        raise UserError(
            f"{path} must hold {', '.join(sorted(axes))}, holds"
            f" {', '.join(sorted(header.shapes))[:400] or 'nothing'}; only plain autoencoders of"
            " the named kind can be imported"
        )
    with reading(path, remedy=remedy):
        together(
            f"{name} must be floats with {axes[name]} axes, is {header.dtypes[name]} {list(shape)}"
            for name, shape in header.shapes.items()
            if name in axes and (header.dtypes[name] not in _FLOATS or len(shape) != axes[name])
        )
        together(
            f"{where} says {name}={shown(named)}, {of} has {size}"
            for (name, named), size in zip(sizes.items(), header.shapes[of], strict=True)
            if named is not None and named != size
        )
    tensors = read_tensors(path, remedy=remedy)
    return {name: tensors.pop(name).double() for name in axes}


def truth(config: Mapping[str, Any], name: str, *, absent: bool) -> bool:
    """True or false; `UserError` for anything else."""
    value = config.get(name, absent)
    if not isinstance(value, bool):
        raise UserError(
            f"{CONFIG_NAME}: {name}={shown(value)} must be true or false; save it again"
        )
    return value


def require(config: Mapping[str, Any], name: str, *allowed: Any, why: str) -> None:
    """`UserError` unless the value is one of `allowed` or absent; `why` ends the sentence with a
    remedy.
    """
    if config.get(name, allowed[0]) not in allowed:
        good = " or ".join(json.dumps(value) for value in allowed)
        raise UserError(f"{CONFIG_NAME}: {name}={shown(config[name])} must be {good}: {why}")


def whole_number(config: Mapping[str, Any], name: str, *, where: str = CONFIG_NAME) -> int:
    """A whole number from 1; `UserError` for anything else. `where`: its file, for the message."""
    value = config.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(
            f"{where}: {name}={shown(value)} must be a whole number from 1; save it again"
        )
    return value
