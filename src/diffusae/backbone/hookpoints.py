"""The hookpoints of a denoiser: its transformer blocks, by dotted module path.

In a U-Net they are the 2D transformers; inputs and outputs are feature maps. In a transformer they
are the members of its lists of blocks (`transformer_blocks.11`, `single_transformer_blocks.3`);
inputs and outputs are one vector per position, and a second stream for the text if attention is
joint.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from diffusae.errors import UserError, together, unknown

if TYPE_CHECKING:
    import torch
    from torch import nn

COMPONENTS = ("unet", "transformer")
"""Attributes of a pipeline that may hold its denoiser."""


@dataclass(frozen=True)
class HookpointInfo:
    """A transformer block, as known before anything runs."""

    path: str
    d_in: int
    """Channels of the block's input, output and update."""
    level: int = 0
    """Number of halvings of the finest grid at the block; always 0 in a transformer."""
    kind: str = "Transformer2DModel"
    """The block's class."""

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """(h, w) of the block's positions for a finest grid of this size. Odd sizes round up."""
        scale = 2**self.level
        return -(-height // scale), -(-width // scale)


def denoiser_of(pipe: Any) -> nn.Module:
    """The pipeline's U-Net or transformer; `UserError` for a pipeline without one."""
    from torch import nn

    for component in COMPONENTS:
        denoiser = getattr(pipe, component, None)
        if isinstance(denoiser, nn.Module):
            return denoiser
    raise UserError(
        f"{type(pipe).__name__} has no U-Net ('unet') and no transformer ('transformer') with "
        "blocks to hook; use a text-to-image pipeline of diffusers"
    )


def execution_device(pipe: Any) -> torch.device:
    """The device that computes. Under offloading, `pipe.device` is where the weights are
    instead."""
    return getattr(pipe, "_execution_device", pipe.device)


def list_hookpoints(denoiser: nn.Module) -> dict[str, HookpointInfo]:
    """{path: info} of all transformer blocks (`mid_block.attentions.0`), in module order."""
    levels = _levels(denoiser)
    return _of_unet(denoiser, levels) if levels else _of_transformer(denoiser)


def find(known: Mapping[str, HookpointInfo], wanted: str | int) -> HookpointInfo:
    """The hookpoint at a path, or at a place in the list: 0 is the first, -1 the last.

    Raises:
        UserError: the path or place does not exist. The message lists the valid ones.
    """
    if isinstance(wanted, int):
        if not -len(known) <= wanted < len(known):
            raise UserError(
                f"hookpoint {wanted} does not exist: the model has {len(known)}; give 0 to"
                f" {len(known) - 1}, or a path"
            )
        return list(known.values())[wanted]
    if wanted not in known:
        raise unknown("hookpoint", wanted, known)
    return known[wanted]


def find_all(
    known: Mapping[str, HookpointInfo], hookpoints: Mapping[str, str | int]
) -> dict[str, HookpointInfo]:
    """{block: info} of {block: path or place}. One `UserError` lists all that do not exist."""
    infos: dict[str, HookpointInfo] = {}
    faults = []
    for block, wanted in hookpoints.items():
        try:
            infos[block] = find(known, wanted)
        except UserError as error:
            faults.append(f"block {block!r}: {error}")
    together(faults)
    return infos


def _of_unet(denoiser: nn.Module, levels: dict[str, int]) -> dict[str, HookpointInfo]:
    from diffusers.models.transformers.transformer_2d import Transformer2DModel

    infos: dict[str, HookpointInfo] = {}
    for path, module in denoiser.named_modules():
        section = next((name for name in levels if path.startswith(f"{name}.")), None)
        if isinstance(module, Transformer2DModel) and section is not None:
            assert module.in_channels is not None  # None only over discrete codes
            infos[path] = HookpointInfo(path=path, d_in=module.in_channels, level=levels[section])
    return infos


def _of_transformer(denoiser: nn.Module) -> dict[str, HookpointInfo]:
    from torch import nn

    config: Any = getattr(denoiser, "config", None)
    if config is None or "num_attention_heads" not in config or "attention_head_dim" not in config:
        return {}
    d_in = config["num_attention_heads"] * config["attention_head_dim"]
    lists = {name: module for name, module in denoiser.named_children() if name.endswith("blocks")}
    return {
        f"{name}.{place}": HookpointInfo(f"{name}.{place}", d_in, kind=type(block).__name__)
        for name, blocks in lists.items()
        if isinstance(blocks, nn.ModuleList)
        for place, block in enumerate(blocks)
    }


def _levels(denoiser: nn.Module) -> dict[str, int]:
    """{section: halvings} of a U-Net, e.g. {"down_blocks.0": 0, "mid_block": 3}."""
    if not hasattr(denoiser, "mid_block"):
        return {}
    levels: dict[str, int] = {}
    level = 0
    for i, block in enumerate(getattr(denoiser, "down_blocks", ())):
        levels[f"down_blocks.{i}"] = level
        level += getattr(block, "downsamplers", None) is not None
    levels["mid_block"] = level
    for i, block in enumerate(getattr(denoiser, "up_blocks", ())):
        levels[f"up_blocks.{i}"] = level
        level -= getattr(block, "upsamplers", None) is not None
    return levels
