"""The places in a denoiser that can be hooked: its transformer blocks, by dotted module path.

In a U-Net they are the 2D transformers, whose inputs and outputs are feature maps; in a transformer
they are the members of its lists of blocks (`transformer_blocks.11`,
`single_transformer_blocks.3`), whose inputs and outputs are one vector a position, with the text as
a stream of its own beside the picture's where attention is joint.
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
"""What pipelines call their denoiser."""


@dataclass(frozen=True)
class HookpointInfo:
    """What is known of a transformer block before anything runs."""

    path: str
    d_in: int
    """Channels of the block's input, output and update."""
    level: int = 0
    """How often the denoiser has halved its finest grid where the block sits; 0 throughout in a
    transformer.
    """
    kind: str = "Transformer2DModel"
    """The block's class."""

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """(h, w) of the block's positions where the finest grid has this size; odd sizes halve
        upwards.
        """
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
        f"{type(pipe).__name__} has no U-Net ('unet') and no transformer ('transformer'), whose"
        " blocks could be hooked; use a text-to-image pipeline of diffusers"
    )


def execution_device(pipe: Any) -> torch.device:
    """Where the pipeline computes: under offloading its weights lie elsewhere, and its own `device`
    is theirs.
    """
    return getattr(pipe, "_execution_device", pipe.device)


def list_hookpoints(denoiser: nn.Module) -> dict[str, HookpointInfo]:
    """{path: info} of every transformer block (`mid_block.attentions.0`, `transformer_blocks.11`),
    in module order.
    """
    levels = _levels(denoiser)
    return _of_unet(denoiser, levels) if levels else _of_transformer(denoiser)


def find(known: Mapping[str, HookpointInfo], wanted: str | int) -> HookpointInfo:
    """The hookpoint of a path, or of a place in the list: 0 is the first, -1 the last.

    Raises:
        UserError: no such path or place; the valid ones are listed.
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
    """{block: info} of {block: path or place}; one `UserError` names every one that does not
    exist.
    """
    found: dict[str, HookpointInfo] = {}
    faults = []
    for block, wanted in hookpoints.items():
        try:
            found[block] = find(known, wanted)
        except UserError as error:
            faults.append(f"block {block!r}: {error}")
    together(faults)
    return found


def _of_unet(denoiser: nn.Module, levels: dict[str, int]) -> dict[str, HookpointInfo]:
    from diffusers.models.transformers.transformer_2d import Transformer2DModel

    found: dict[str, HookpointInfo] = {}
    for path, module in denoiser.named_modules():
        section = next((name for name in levels if path.startswith(f"{name}.")), None)
        if isinstance(module, Transformer2DModel) and section is not None:
            assert module.in_channels is not None  # only a transformer over discrete codes has none
            found[path] = HookpointInfo(path=path, d_in=module.in_channels, level=levels[section])
    return found


def _of_transformer(denoiser: nn.Module) -> dict[str, HookpointInfo]:
    from torch import nn

    config: Any = getattr(denoiser, "config", None)
    if config is None or "num_attention_heads" not in config or "attention_head_dim" not in config:
        return {}
    d_in = config["num_attention_heads"] * config["attention_head_dim"]
    lists = {name: each for name, each in denoiser.named_children() if name.endswith("blocks")}
    return {
        f"{name}.{place}": HookpointInfo(
            path=f"{name}.{place}", d_in=d_in, kind=type(block).__name__
        )
        for name, blocks in lists.items()
        if isinstance(blocks, nn.ModuleList)
        for place, block in enumerate(blocks)
    }


def _levels(denoiser: nn.Module) -> dict[str, int]:
    """{section: halvings} of a U-Net, e.g. {"down_blocks.0": 0, "mid_block": 3}, read off its
    resamplers.
    """
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
