"""Stable Diffusion 3 and 3.5: joint blocks over the picture's stream and the text's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from diffusae.backbone.adapters import Adapter, tokens_of
from diffusae.backbone.blocks import Block, Tokens
from diffusae.backbone.outline import Outline
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
    def outline(cls, config: Mapping[str, Any]) -> Outline | None:
        known = super().outline(config)
        if known is not None and known.hookpoints:
            last = list(known.hookpoints)[-1]
            known.hookpoints[last] = replace(known.hookpoints[last], ends_text=True)
        return known

    @classmethod
    def most_text(cls, pipeline: str, own: int, text_tokens: int | None) -> int:
        return own + (text_tokens or cls.padded.get(pipeline, 0))

    def prompt_tokens(
        self, pipe: Any, prompt: str, text_tokens: int | None
    ) -> dict[int, str] | None:
        """CLIP's, and behind its padding T5's where there is one; without, zeros stand there."""
        clip = pipe.tokenizer.model_max_length
        tokens = tokens_of(pipe.tokenizer, prompt, clip)
        if pipe.text_encoder_3 is not None:
            limit = text_tokens or self.padded["StableDiffusion3Pipeline"]
            tokens |= tokens_of(pipe.tokenizer_3, prompt, limit, first=clip)
        return tokens

    @classmethod
    def passes(cls, pipeline: str) -> PassesOf:
        return perturbed if "PAG" in pipeline else super().passes(pipeline)
