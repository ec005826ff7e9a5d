"""The places in a denoiser that can be hooked: its 2D transformer blocks, by dotted module path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import nn

from diffusae.errors import UserError, together, unknown


@dataclass(frozen=True)
class HookpointInfo:
    """What is known of a transformer block before anything runs."""

    path: str
    d_in: int
    """Channels of the block's input, output and update."""
    level: int
    """How often the latent has been halved where the block sits."""

    def grid(self, latent_height: int, latent_width: int) -> tuple[int, int]:
        """(h, w) of the block's positions for a latent of this size; odd sizes halve upwards."""
        scale = 2**self.level
        return -(-latent_height // scale), -(-latent_width // scale)


def denoiser_of(pipe: Any) -> nn.Module:
    """The pipeline's U-Net; `UserError` for a pipeline without one."""
    denoiser = getattr(pipe, "unet", None)
    if not isinstance(denoiser, nn.Module):
        raise UserError(
            f"{type(pipe).__name__} has no U-Net ('unet'); hookpoints are the transformer blocks of a U-Net: "
            "use a pipeline of the Stable Diffusion 1, 2 or XL kind"
        )
    return denoiser


def list_hookpoints(denoiser: nn.Module) -> dict[str, HookpointInfo]:
    """{path: info} of every 2D transformer block (`down_blocks.2.attentions.1`, ...), in module order."""
    levels = _levels(denoiser)
    found: dict[str, HookpointInfo] = {}
    for path, module in denoiser.named_modules():
        section = next((name for name in levels if path.startswith(f"{name}.")), None)
        if isinstance(module, Transformer2DModel) and section is not None:
            assert module.in_channels is not None  # only a transformer over discrete codes has none
            found[path] = HookpointInfo(path=path, d_in=module.in_channels, level=levels[section])
    return found


def resolve(denoiser: nn.Module, path: str) -> nn.Module:
    """The transformer block at `path`; `UserError` that lists the valid paths when there is none."""
    if path not in list_hookpoints(denoiser):
        raise unknown(f"hookpoint of this {type(denoiser).__name__}:", path, list_hookpoints(denoiser))
    return denoiser.get_submodule(path)


def resolve_all(denoiser: nn.Module, hookpoints: Mapping[str, str]) -> dict[str, nn.Module]:
    """{block: module} of {block: path}; one `UserError` names every path that does not exist."""
    known = list_hookpoints(denoiser)
    together(
        f"block {block!r}: {unknown('hookpoint', path, known)}"
        for block, path in hookpoints.items()
        if path not in known
    )
    return {block: denoiser.get_submodule(path) for block, path in hookpoints.items()}


def _levels(denoiser: nn.Module) -> dict[str, int]:
    """{section: halvings} of a U-Net, e.g. {"down_blocks.0": 0, "mid_block": 3}, read off its resamplers."""
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
