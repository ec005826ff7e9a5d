"""How many numbers the components of a model hold, and in what parts they can leave the GPU.

The shipped models' sizes (`component_sizes.json`) and a folder's weight files need no torch. Other
configurations are built on the meta device.
"""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from diffusae.backbone.component_configs import REMEDY, on_meta
from diffusae.backbone.describe import configurations
from diffusae.backbone.hookpoints import COMPONENTS
from diffusae.sources import is_hub_id
from diffusae.tensor_files import Shape, read_header

SHIPPED = Path(__file__).parent / "component_sizes.json"
"""{model of `architectures`: {component: the numbers of its size}}"""
_VARIANT = re.compile(r"[^.]+\.([^.]+?)(?:-\d+-of-\d+)?\.safetensors")
_LISTED = re.compile(r"(\w+\.\d+)\.")
"""A parameter of a member of a list that lies directly in the component: `down_blocks.2.`"""
_LOOKED_UP = re.compile(
    r"(token_embedding|position_embedding|shared|embed_tokens|attention_bias|embeddings)\.weight$"
)
"""Tables. All other matrices are weights of linear layers."""

_T5 = {"feed_forward_proj": "gated-gelu"}
"""What `architectures` leaves out of T5, where it is the same in all; others do not read it."""


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
            if len(shape) == 2 and name.endswith(".weight") and not _LOOKED_UP.search(name):
                linear += count
        block = max(blocks.values(), default=0)
        return cls(sum(layers.values()), linear, max(layers.values(), default=0), block, outside)


@dataclass(frozen=True)
class ModelSize:
    """A model's weights, and the widths that its activations follow.

    Attributes:
        components: {component: its size}; the U-Net or transformer is `denoiser`.
        classes: {component: its class}.
        unet_width: channels of a U-Net's finest level; None for a transformer.
        vae_width: channels of the VAE's decoder at the picture's size.
        tile: side in pixels of the tiles that `model.vae_tiling` decodes; None: unknown.
    """

    components: Mapping[str, ComponentSize]
    classes: Mapping[str, str]
    unet_width: int | None
    vae_width: int
    tile: int | None


def model_size(
    source: str | Path, *, revision: str | None, architecture: str | None, variant: str | None
) -> ModelSize:
    """The size of a folder's or a hub's model before its weights load. Raises as `describe`."""
    parts = configurations(source, revision=revision, architecture=architecture)
    configs = by_component(parts)
    if architecture is not None and is_hub_id(source):
        known = shipped_sizes().get(architecture, {})
    else:
        known = sizes_in_folder(Path(source).expanduser(), variant)
    denoiser, vae = parts["denoiser"], parts["vae"]
    channels = vae.get("block_out_channels") or vae.get("decoder_block_out_channels")
    return ModelSize(
        components={
            name: known.get(name) or built_size(config, source) for name, config in configs.items()
        },
        classes={name: _class_of(config) for name, config in configs.items()},
        unet_width=channels_of[0] if (channels_of := denoiser.get("block_out_channels")) else None,
        vae_width=channels[0] if channels else vae.get("base_dim", 128),
        tile=vae.get("sample_size"),
    )


def shipped_sizes() -> dict[str, dict[str, ComponentSize]]:
    """{model of `architectures`: {component: size}}."""
    models = json.loads(SHIPPED.read_text(encoding="utf-8"))
    return {
        model: {name: ComponentSize(*numbers) for name, numbers in sizes.items()}
        for model, sizes in models.items()
    }


def built_sizes(parts: Mapping[str, Any], source: object) -> dict[str, list[int]]:
    """A model's sizes as `component_sizes.json` keeps them, by building it on the meta device."""
    configs = by_component(parts)
    return {name: list(astuple(built_size(config, source))) for name, config in configs.items()}


def built_size(config: Mapping[str, Any], source: object) -> ComponentSize:
    """The size of a component by building it. Raises as `on_meta`."""
    module = on_meta(dict(config), source)
    return ComponentSize.of({name: tuple(p.shape) for name, p in module.named_parameters()})


def sizes_in_folder(folder: Path, variant: str | None) -> dict[str, ComponentSize]:
    """{component: size} of the components that have weight files in a pipeline's folder."""
    sizes = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        shapes: dict[str, Shape] = {}
        for file in sorted(path.glob("*.safetensors")):
            match = _VARIANT.fullmatch(file.name)
            if (match and match[1]) == variant:
                shapes |= read_header(file, remedy=REMEDY).shapes
        if shapes:
            sizes["denoiser" if path.name in COMPONENTS else path.name] = ComponentSize.of(shapes)
    return sizes


def by_component(parts: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """{component: configuration, with `_class_name` in diffusers' and `architectures` in
    transformers' words}."""
    encoders = {
        name: _T5
        | {key: value for key, value in config.items() if key != "_class_name"}
        | {"architectures": [config["_class_name"]]}
        for name, config in parts["text_encoders"].items()
    }
    return {"denoiser": parts["denoiser"], "vae": _vae(parts["vae"]), **encoders}


def _vae(config: Mapping[str, Any]) -> dict[str, Any]:
    """A VAE's configuration with what `architectures` leaves out, since it is the same in all of
    the kind."""
    levels = len(config.get("block_out_channels") or ())
    if config["_class_name"] not in ("AutoencoderKL", "AutoencoderKLFlux2") or not levels:
        return dict(config)
    of_16_channels = {"use_quant_conv": False, "use_post_quant_conv": False}
    return {
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "layers_per_block": 2,
        **(of_16_channels if config.get("latent_channels") == 16 else {}),
        **config,
    }


def _class_of(config: Mapping[str, Any]) -> str:
    return config.get("_class_name") or config["architectures"][0]
