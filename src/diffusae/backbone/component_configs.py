"""The configurations of a model folder's components. Sizes are checked before anything is built."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
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
"""Limit of any list of layers. The largest published model has below 100."""
MOST_PLACES = 1024
"""Limit of a side of the finest grid, since some models compute a table of it. Published models
have up to 384."""
MOST_CHANNELS = 2**24
_LAYERS = ("layers", "num_blocks", "depth", "refiner_layers")
_PLACES = ("sample_size", "pos_embed_max_size", "base_size", "image_size")


def component_config(folder: Path, name: str) -> dict[str, Any]:
    """`<name>/config.json`; `FileNotFoundError` if it is missing, `UserError` if it is damaged."""
    return read_json(folder / name / "config.json", remedy=REMEDY)


def check_sizes(config: Mapping[str, Any], named_by: object) -> None:
    """`UserError` with all numbers that no model has. They would cost endless memory or time."""
    kind = config.get("_class_name")
    together(
        f"{named_by}: {key}={shown(number)} must not be above {most}, nor below {-most}; {REMEDY}"
        for key, value in config.items()
        for number, most in _numbers(value, _most(key, kind))
        if not -most <= number <= most
    )


def _most(key: str, kind: object) -> int:
    if any(key.endswith(name) or f"{name}_per" in key for name in _LAYERS):
        return MOST_LAYERS
    if (kind, key) == ("AuraFlowTransformer2DModel", "pos_embed_max_size"):
        return MOST_PLACES**2  # the positions of the grid, not its side; their table is learned
    return MOST_PLACES if key in _PLACES else MOST_CHANNELS


def _numbers(value: Any, most: int) -> Iterator[tuple[Any, int]]:
    """(number, its limit) for every number in a value and the length of every list."""
    if isinstance(value, list):
        yield len(value), MOST_LAYERS
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for item in inner:
        yield from _numbers(item, most)
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield value, most


def on_meta(config: dict[str, Any], named_by: object) -> nn.Module:
    """The module of a configuration, on the meta device: shapes without memory.

    The configuration names its class in `_class_name` (diffusers) or `architectures`
    (transformers).

    Raises:
        UserError: the class does not exist, or cannot be built from this configuration.
    """
    check_sizes(config, named_by)
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
            if "_class_name" in config:
                return kind.from_config(config)
            return kind(kind.config_class.from_dict(config))
    except Exception as error:  # bad values may raise anything
        what = f"{kind.__name__} ({first_words(error)})"
        raise UserError(f"{named_by} makes no {what}; {REMEDY}") from error


def require_weights(folder: Path, name: str) -> None:
    """Check that a component's weight files hold as many numbers as its configuration needs.

    Raises:
        UserError: as `on_meta`; the weight files are damaged or hold too few numbers.
    """
    try:
        config = component_config(folder, name)
    except FileNotFoundError:  # a tokenizer, a scheduler
        return
    files = sorted((folder / name).glob("*.safetensors"))
    if not files or not ("_class_name" in config or "architectures" in config):
        return
    module = on_meta(config, folder / name / "config.json")
    wanted = sum(parameter.numel() for parameter in module.parameters())
    headers = [read_header(path, remedy=REMEDY) for path in files]
    held = sum(math.prod(shape) for header in headers for shape in header.shapes.values())
    if wanted > held:
        raise UserError(
            f"{folder / name / 'config.json'} asks for {wanted} numbers, the weights beside it "
            f"hold {held}; {REMEDY}"
        )
