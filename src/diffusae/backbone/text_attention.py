"""The layers in which a denoiser attends to the text."""

from __future__ import annotations

from typing import Any

from torch import nn

from diffusae.backbone.families.table import list_hookpoints

TEXT_KEYS = ("add_k_proj", "to_k_t")
"""Names of a joint layer's projection to the text's keys; the second is HiDream's."""


def text_attentions(denoiser: nn.Module, path: str) -> list[Any]:
    """The layers of the block at `path` in which the picture attends to the text.

    These are `attn2` of the layers of a 2D transformer or of a PixArt block, and `attn` of a joint
    block that has its own projections for the text (FLUX's single-stream blocks have none). HiDream
    keeps such a layer as `attn1` of a block within the block.
    """
    block: Any = denoiser.get_submodule(path)
    for joint in (getattr(block, "attn", None), getattr(getattr(block, "block", None), "attn1", 0)):
        if any(getattr(joint, name, None) is not None for name in TEXT_KEYS):
            return [joint]
    crossed = [
        getattr(layer, "attn2", None) for layer in getattr(block, "transformer_blocks", [block])
    ]
    # LTX's layers do not say it of themselves.
    return [layer for layer in crossed if layer and getattr(layer, "is_cross_attention", True)]


def reads_text(denoiser: nn.Module) -> bool:
    """Whether any hookpoint has a layer that attends to the text."""
    return any(text_attentions(denoiser, path) for path in list_hookpoints(denoiser))
