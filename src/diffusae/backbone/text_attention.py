"""The layers in which a denoiser attends to the text."""

from __future__ import annotations

from typing import Any

from torch import nn

from diffusae.backbone.families.table import list_hookpoints


def text_attentions(denoiser: nn.Module, path: str) -> list[Any]:
    """The layers of the block at `path` in which the picture attends to the text.

    These are `attn2` of the layers of a 2D transformer or of a PixArt block, and `attn` of a joint
    block that has its own projections for the text (FLUX's single-stream blocks have none).
    """
    block: Any = denoiser.get_submodule(path)
    joint = getattr(block, "attn", None)
    if getattr(joint, "add_k_proj", None) is not None:
        return [joint]
    crossed = [
        getattr(layer, "attn2", None) for layer in getattr(block, "transformer_blocks", [block])
    ]
    return [layer for layer in crossed if getattr(layer, "is_cross_attention", False)]


def reads_text(denoiser: nn.Module) -> bool:
    """Whether any hookpoint has a layer that attends to the text."""
    return any(text_attentions(denoiser, path) for path in list_hookpoints(denoiser))
