"""The blocks of a denoiser and the layers of text encoders from their configurations alone: a plan
needs neither torch nor diffusers.

An outline says what building the model would show (a test compares both for every family). A
configuration of another kind has none; then the model is built on the meta device.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from diffusae.backbone.hookpoints import HookpointInfo
from diffusae.backbone.settings import Layout

PADDED: Mapping[str, int] = {
    "StableDiffusion3Pipeline": 256,
    "StableDiffusion3PAGPipeline": 256,
    "FluxPipeline": 512,
    "PixArtAlphaPipeline": 120,
    "PixArtSigmaPipeline": 300,
    "PixArtSigmaPAGPipeline": 300,
}
"""Tokens that a pipeline pads T5 prompts to, by its class; the others have no such limit."""

_PLAIN_UNET = {"DownBlock2D", "UpBlock2D", "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"}


@dataclass(frozen=True)
class Outline:
    """What is known of a denoiser.

    Attributes:
        hookpoints: {path: what is known of the block}, in module order.
        patch: latent entries that one position of the finest grid spans along each side.
        layout: how guidance runs.
        reads_text: whether a block attends to the text in a layer of its own.
        pads: whether prompts are padded to what the pipeline's call says (`PADDED`), and not to
            the length of the first text encoder.
    """

    hookpoints: dict[str, HookpointInfo]
    patch: int
    layout: Layout
    reads_text: bool
    pads: bool


def outline(config: Mapping[str, Any]) -> Outline | None:
    """The outline of a denoiser's configuration with its `_class_name`; None where it is not of a
    known kind.
    """
    kind = config.get("_class_name")
    if kind == "UNet2DConditionModel":
        return _unet(config)
    match config:
        case {"num_attention_heads": int(heads), "attention_head_dim": int(size)} if (
            heads > 0 < size
        ):
            width = heads * size
        case _:
            return None
    match kind, config:
        case "SD3Transformer2DModel", {"num_layers": int(n), "patch_size": int(patch)} if patch > 0:
            blocks = _blocks("transformer_blocks", n, width, "JointTransformerBlock")
            return Outline(blocks, patch, "one_batch", reads_text=n > 0, pads=False)
        case "FluxTransformer2DModel", {"num_layers": int(n), "num_single_layers": int(singles)}:
            blocks = _blocks("transformer_blocks", n, width, "FluxTransformerBlock")
            blocks |= _blocks(
                "single_transformer_blocks", singles, width, "FluxSingleTransformerBlock"
            )
            return Outline(blocks, 2, "two_passes", reads_text=n > 0, pads=True)
        case (
            "PixArtTransformer2DModel",
            {"num_layers": int(n), "patch_size": int(patch), "cross_attention_dim": int()},
        ) if patch > 0:
            blocks = _blocks("transformer_blocks", n, width, "BasicTransformerBlock")
            return Outline(blocks, patch, "one_batch", reads_text=n > 0, pads=True)
    return None


@dataclass(frozen=True)
class TextOutline:
    """What is known of a text encoder: the path of its list of layers, their number, the width of a
    token's vector, and the tokens that it has positions for (None: any number, T5).
    """

    path: str
    layers: int
    width: int
    tokens: int | None


def text_outline(config: Mapping[str, Any]) -> TextOutline | None:
    """The outline of a text encoder's configuration with its `_class_name`; None where it is not of
    a known kind.
    """
    kind = config.get("_class_name")
    match config:
        case {"num_layers": int(n), "d_model": int(width)} if kind == "T5EncoderModel":
            known = TextOutline("encoder.block", n, width, None)
        case {
            "num_hidden_layers": int(n),
            "hidden_size": int(width),
            "max_position_embeddings": int(tokens),
        } if kind in ("CLIPTextModel", "CLIPTextModelWithProjection"):
            # transformers 5 has no `text_model` around a plain CLIPTextModel's layers.
            above = "text_model." if kind == "CLIPTextModelWithProjection" else ""
            known = TextOutline(f"{above}encoder.layers", n, width, tokens)
        case _:
            return None
    return known if n > 0 and width > 0 else None


def _blocks(name: str, count: int, width: int, kind: str) -> dict[str, HookpointInfo]:
    paths = [f"{name}.{place}" for place in range(count)]
    return {path: HookpointInfo(path=path, d_in=width, kind=kind) for path in paths}


def _unet(config: Mapping[str, Any]) -> Outline | None:
    """A U-Net of plain blocks: every down block but the last halves the grid, the middle has one
    transformer, and an up block has one layer more than the down block of its size.
    """
    match config:
        case {
            "block_out_channels": [*channels],
            "down_block_types": [*down],
            "up_block_types": [*up],
            "layers_per_block": int(layers),
            "cross_attention_dim": int() | [*_],
        } if (
            len(channels) == len(down) == len(up) > 0
            and {*map(str, down), *map(str, up)} <= _PLAIN_UNET
            and all(isinstance(count, int) and count > 0 for count in channels)
            and layers > 0
            and config.get("mid_block_type", "UNetMidBlock2DCrossAttn") == "UNetMidBlock2DCrossAttn"
            and not config.get("dual_cross_attention")
        ):
            last = len(channels) - 1
            hookpoints = [
                *_section("down_blocks", down, layers, list(enumerate(channels))),
                *_section("up_blocks", up, layers + 1, list(enumerate(channels))[::-1]),
                HookpointInfo(path="mid_block.attentions.0", d_in=channels[-1], level=last),
            ]
            return Outline(
                {info.path: info for info in hookpoints}, 1, "one_batch", True, pads=False
            )
    return None


def _section(
    name: str, kinds: list[str], layers: int, sizes: list[tuple[int, int]]
) -> Iterator[HookpointInfo]:
    """The transformers of a U-Net's half; `sizes` are (level, channels) of its blocks."""
    for place, (kind, (level, channels)) in enumerate(zip(kinds, sizes, strict=True)):
        if kind.startswith("CrossAttn"):
            for layer in range(layers):
                path = f"{name}.{place}.attentions.{layer}"
                yield HookpointInfo(path=path, d_in=channels, level=level)
