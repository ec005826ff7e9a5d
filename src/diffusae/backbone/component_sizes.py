"""How many numbers the components of a model hold, and in what parts they can leave the GPU: from
configurations and headers of weight files.

The shipped sizes (`architectures/*.json`, "sizes") and a folder's weight files need no torch. Other
configurations are built on the meta device.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from diffusae.backbone.component_configs import REMEDY, on_meta
from diffusae.tensor_files import Shape, read_header

_VARIANT = re.compile(r"[^.]+\.([^.]+?)(?:-\d+-of-\d+)?\.safetensors")
_LISTED = re.compile(r"(\w+\.\d+)\.")
"""A parameter of a member of a list that lies directly in the component: `down_blocks.2.`"""
_EMBEDDING = re.compile(
    r"(^|\.)(\w*token_embedding|position_embedding|shared|embed_tokens|relative_attention_bias)\.weight$"
)
"""Tables that are looked up. All other matrices are weights of linear layers."""


@dataclass(frozen=True)
class ComponentSize:
    """Parameters of one component.

    Attributes:
        linear: of these, weights of linear layers: what quantisation stores in fewer bits.
        layer: of the largest single layer.
        block: of the largest member of the lists of blocks that lie directly in it; 0: it has none.
        outside: parameters outside of these lists.
    """

    parameters: int
    linear: int
    layer: int
    block: int
    outside: int

    @classmethod
    def of(cls, shapes: Mapping[str, Shape]) -> ComponentSize:
        """The size of the component with these parameters, by name.

        Example: `blocks.0.fc.weight` [4, 2], `blocks.0.fc.bias` [4], `blocks.1.fc.weight` [8, 2]
        and `norm.weight` [3] are 31 parameters: 24 linear; 16 in the largest layer, `blocks.1.fc`,
        which is also the largest block; 3 outside.
        """
        layers, blocks = defaultdict[str, int](int), defaultdict[str, int](int)
        linear = outside = 0
        for name, shape in shapes.items():
            count = math.prod(shape)
            layers[name.rpartition(".")[0]] += count
            if match := _LISTED.match(name):
                blocks[match[1]] += count
            else:
                outside += count
            if len(shape) == 2 and name.endswith(".weight") and not _EMBEDDING.search(name):
                linear += count
        total = sum(layers.values())
        largest = max(layers.values(), default=0)
        return cls(total, linear, largest, max(blocks.values(), default=0), outside)


def sizes_of_parts(parts: Mapping[str, Any], source: object) -> dict[str, ComponentSize]:
    """{component: size} of `describe.configurations`: the shipped sizes, else by building."""
    if "sizes" in parts:
        return {name: ComponentSize(*numbers) for name, numbers in parts["sizes"].items()}
    return built_sizes(parts, source)


def built_sizes(parts: Mapping[str, Any], source: object) -> dict[str, ComponentSize]:
    """The same by building every component on the meta device. Raises as `on_meta`."""
    configs = {"denoiser": parts["denoiser"], "vae": parts["vae"]}
    for name, config in parts["text_encoders"].items():
        values = {key: value for key, value in config.items() if key != "_class_name"}
        configs[name] = {**values, "architectures": [config["_class_name"]]}
    return {
        name: ComponentSize.of(
            {path: tuple(one.shape) for path, one in on_meta(config, source).named_parameters()}
        )
        for name, config in configs.items()
    }


def sizes_in_folder(folder: Path, variant: str | None) -> dict[str, ComponentSize]:
    """{component: size} of the components of a pipeline's folder that have weight files there."""
    sizes = {}
    for path in sorted(folder.iterdir()):
        shapes: dict[str, Shape] = {}
        for file in sorted(path.glob("*.safetensors")):
            match = _VARIANT.fullmatch(file.name)
            if (match and match[1]) == variant:
                shapes |= read_header(file, remedy=REMEDY).shapes
        if shapes:
            sizes[path.name] = ComponentSize.of(shapes)
    return sizes


def as_numbers(sizes: Mapping[str, ComponentSize]) -> dict[str, list[int]]:
    """As `architectures/*.json` keeps them."""
    return {name: list(astuple(size)) for name, size in sizes.items()}
