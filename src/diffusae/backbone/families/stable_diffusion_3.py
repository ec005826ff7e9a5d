"""Stable Diffusion 3 and 3.5: joint blocks over the picture's stream and the text's."""

from __future__ import annotations

from diffusae.backbone.adapters import Adapter
from diffusae.backbone.blocks import Block, Tokens
from diffusae.backbone.passes import PassesOf, perturbed


class StableDiffusion3Adapter(Adapter):
    """The text's tokens are those of two CLIP encoders (beside one another), then those of T5.

    The last block returns no text.
    """

    family = "Stable Diffusion 3"
    denoisers = ("SD3Transformer2DModel",)
    pipelines = ("StableDiffusion3Pipeline", "StableDiffusion3PAGPipeline")
    with_a_picture = (
        "StableDiffusion3Img2ImgPipeline",
        "StableDiffusion3InpaintPipeline",
        "StableDiffusion3ControlNetPipeline",
        "StableDiffusion3ControlNetInpaintingPipeline",
        "StableDiffusion3PAGImg2ImgPipeline",
    )
    blocks = {
        "transformer_blocks": Block(
            "JointTransformerBlock",
            count="num_layers",
            picture=Tokens(output=1),
            text=Tokens("encoder_hidden_states", output=0),
        )
    }
    padded = {"StableDiffusion3Pipeline": 256, "StableDiffusion3PAGPipeline": 256}

    @classmethod
    def passes(cls, pipeline: str) -> PassesOf:
        return perturbed if "PAG" in pipeline else super().passes(pipeline)
