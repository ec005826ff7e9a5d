"""The blocks of a denoiser and the layers of text encoders from their configurations alone: a plan
needs neither torch nor diffusers.

An outline says what building the model would show (a test compares both for every family). A
configuration of another kind has none; then the model is built on the meta device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffusae.backbone.blocks import HookpointInfo
from diffusae.backbone.settings import Layout


@dataclass(frozen=True)
class Outline:
    """What is known of a denoiser.

    Attributes:
        hookpoints: {path: what is known of the block}, in module order.
        patch: latent entries that one position of the finest grid spans along each side.
        layout: how guidance runs.
        reads_text: whether a block attends to the text in a layer of its own.
        pads: whether prompts are padded to what the pipeline's call says, and not to
            the length of the first text encoder.
    """

    hookpoints: dict[str, HookpointInfo]
    patch: int
    layout: Layout
    reads_text: bool
    pads: bool


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
