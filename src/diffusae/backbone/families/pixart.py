"""PixArt alpha and Sigma: blocks over the picture's stream, which attends to the text."""

from __future__ import annotations

from diffusae.backbone.adapters import Adapter
from diffusae.backbone.blocks import Block
from diffusae.backbone.passes import PassesOf, perturbed


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
