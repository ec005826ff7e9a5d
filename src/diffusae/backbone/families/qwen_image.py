"""Qwen-Image: joint blocks over the picture's stream and the text's, as in FLUX without single
streams."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusae.backbone.blocks import Block, Grid, Tokens
from diffusae.backbone.families.flux import FluxAdapter
from diffusae.backbone.prompt_templates import Templated


class QwenImageAdapter(FluxAdapter):
    """Latents in packs of 2 x 2 and time from 0 to 1 as in FLUX, and no guidance as an input.

    A second, unconditional pass runs only with `true_cfg_scale` above 1 and a negative prompt. The
    pipeline wraps a prompt in a template and drops the template's first 34 tokens, so the first
    token of the text's stream is the prompt's first. Prompts are padded to the longest of a call,
    and a mask hides the padding. An editing pipeline appends given pictures to the picture's
    stream.
    """

    family = "Qwen-Image"
    denoisers = ("QwenImageTransformer2DModel",)
    pipelines = ("QwenImagePipeline",)
    with_a_picture = (
        "QwenImageImg2ImgPipeline",
        "QwenImageInpaintPipeline",
        "QwenImageControlNetPipeline",
        "QwenImageControlNetInpaintPipeline",
        "QwenImageEditPipeline",
        "QwenImageEditInpaintPipeline",
        "QwenImageEditPlusPipeline",
    )
    layout = "two_passes"
    blocks = {
        "transformer_blocks": Block(
            "QwenImageTransformerBlock",
            count="num_layers",
            picture=Tokens(output=1, within="before_text"),  # given pictures come after it
            text=Tokens("encoder_hidden_states", output=0),
        )
    }
    padded = {"QwenImagePipeline": 512}

    def size(self, given: Mapping[str, Any]) -> Grid:
        shape = given["img_shapes"][0]
        _frames, height, width = shape if isinstance(shape[0], int) else shape[0]
        return height, width

    def guidance(self, guidance: float, true_guidance: float | None, count: int) -> dict[str, Any]:
        options = super().guidance(guidance, true_guidance, count)
        if not self.denoiser.config.guidance_embeds:
            del options["guidance_scale"]
        return options

    def words(self, pipe: Any, text_tokens: int | None) -> tuple[Any, int]:
        before, after = pipe.prompt_template_encode.split("{}")
        dropped = pipe.prompt_template_encode_start_idx
        tokens = self.tokens(type(pipe), pipe.tokenizer_max_length, text_tokens)
        made = Templated(pipe.tokenizer, before, after, dropped=dropped, padding_side="right")
        return made, tokens  # the pipeline moves the padding behind the prompt
