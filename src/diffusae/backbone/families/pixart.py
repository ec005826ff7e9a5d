"""PixArt alpha and Sigma: blocks over the picture's stream, which attends to the text."""

from __future__ import annotations

from typing import Any

from diffusae.backbone.adapters import Adapter
from diffusae.backbone.blocks import Block
from diffusae.backbone.passes import PassesOf, perturbed
from diffusae.backbone.rewritten import RewrittenPrompts


class PixArtAdapter(Adapter):
    """The text's tokens are T5's."""

    family = "PixArt"
    denoisers = ("PixArtTransformer2DModel",)
    pipelines = ("PixArtAlphaPipeline", "PixArtSigmaPipeline", "PixArtSigmaPAGPipeline")
    blocks = {"transformer_blocks": Block("BasicTransformerBlock", count="num_layers")}
    pads = True
    padded = {"PixArtAlphaPipeline": 120, "PixArtSigmaPipeline": 300, "PixArtSigmaPAGPipeline": 300}

    @classmethod
    def passes(cls, pipeline: str) -> PassesOf:
        return perturbed if "PAG" in pipeline else super().passes(pipeline)

    def words(self, pipe: Any, text_tokens: int | None) -> tuple[Any, int]:
        tokenizer, limit = super().words(pipe, text_tokens)
        return RewrittenPrompts(tokenizer, "", limit), limit
