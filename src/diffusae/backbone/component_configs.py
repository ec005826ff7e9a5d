"""The configurations of a model folder's components. A folder may come from anyone: nothing is
built before its size is known.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffusae.backbone.trusted import model_class
from diffusae.errors import UserError, together
from diffusae.parsing import first_words, read_json, shown
from diffusae.tensor_files import read_header

if TYPE_CHECKING:
    from torch import nn

REMEDY = "copy the folder again"
MOST_LAYERS = 1000
"""In any list of layers; the largest published model has below 100."""
MOST_PLACES = 1024
"""Of a side of the finest grid, for which some models compute a table at once; published ones have
up to 384.
"""
MOST_CHANNELS = 2**24
_LAYERS = ("layers", "num_blocks", "depth", "refiner_layers")
_PLACES = ("sample_size", "pos_embed_max_size", "base_size", "image_size")


def component_config(folder: Path, name: str) -> dict[str, Any]:
    """`<name>/config.json`. Raises `FileNotFoundError` where there is none, `UserError` where it is
    damaged.
    """
    return read_json(folder / name / "config.json", remedy=REMEDY)


def check_sizes(config: dict[str, Any], told_by: object) -> None:
    """Refuse numbers that no model has: they would cost memory or time without end.

    Raises:
        UserError: with every such number.
    """
    together(
        f"{told_by}: {key}={shown(number)} must not be above {most}, nor below {-most}; {REMEDY}"
        for key, value in config.items()
        for number, most in _numbers(value, _most(key))
        if not -most <= number <= most
    )


def _most(key: str) -> int:
    if any(key.endswith(each) or f"{each}_per" in key for each in _LAYERS):
        return MOST_LAYERS
    return MOST_PLACES if key in _PLACES else MOST_CHANNELS


def _numbers(value: Any, most: int) -> Iterator[tuple[Any, int]]:
    """Every number in a value, and the length of every list, each with its limit."""
    if isinstance(value, list):
        yield len(value), MOST_LAYERS
    for each in (
        value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    ):
        yield from _numbers(each, most)
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield value, most


def on_meta(config: dict[str, Any], told_by: object) -> nn.Module:
    """The module of a configuration with its `_class_name` (diffusers) or `architectures`
    (transformers): shapes without memory.

    Raises:
        UserError: no such class, or it makes nothing of this configuration.
    """
    check_sizes(config, told_by)
    import diffusers
    import torch
    import transformers

    if "_class_name" in config:
        kind = model_class("diffusers", config["_class_name"], diffusers.ModelMixin)
    else:
        names = config.get("architectures")
        name = names[0] if isinstance(names, list) and names else None
        kind = model_class("transformers", name, transformers.PreTrainedModel)
    try:
        with torch.device("meta"):
            return (
                kind.from_config(config)
                if "_class_name" in config
                else kind(kind.config_class.from_dict(config))
            )
    except Exception as error:  # a constructor raises whatever its values lead to
        raise UserError(
            f"{told_by} makes no {kind.__name__} ({first_words(error)}); {REMEDY}"
        ) from error


def require_weights(folder: Path, name: str) -> None:
    """Refuse a component whose configuration asks for more numbers than its weight files hold.

    Raises:
        UserError: as `on_meta`; damaged weight files; too few numbers in them.
    """
    try:
        config = component_config(folder, name)
    except FileNotFoundError:  # a tokenizer, a scheduler
        return
    files = sorted((folder / name).glob("*.safetensors"))
    if not files or not ("_class_name" in config or "architectures" in config):
        return
    wanted = sum(
        each.numel() for each in on_meta(config, folder / name / "config.json").parameters()
    )
    held = 0
    for path in files:
        for shape in read_header(path, remedy=REMEDY).shapes.values():
            held += math.prod(shape)
    if wanted > held:
        raise UserError(
            f"{folder / name / 'config.json'} asks for {wanted} numbers, the weights beside it hold"
            f" {held}; {REMEDY}"
        )
