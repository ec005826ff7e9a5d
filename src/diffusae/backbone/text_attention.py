"""Where a denoiser attends to the text."""

from __future__ import annotations

from typing import Any

from torch import nn

from diffusae.backbone.hookpoints import list_hookpoints


def text_attentions(denoiser: nn.Module, path: str) -> list[Any]:
    """The layers of the block at `path` in which the picture attends to the text.

    They are `attn2` of each layer of a 2D transformer, or of a PixArt block; in a joint block
    `attn`, where it has projections of its own for the text (not so in FLUX's single-stream
    blocks).
    """
    block: Any = denoiser.get_submodule(path)
    joint = getattr(block, "attn", None)
    if getattr(joint, "add_k_proj", None) is not None:
        return [joint]
    crossed = [
        getattr(layer, "attn2", None) for layer in getattr(block, "transformer_blocks", [block])
    ]
    return [each for each in crossed if getattr(each, "is_cross_attention", False)]


def reads_text(denoiser: nn.Module) -> bool:
    """Whether any hookable block attends to the text in a layer of its own."""
    return any(text_attentions(denoiser, path) for path in list_hookpoints(denoiser))
