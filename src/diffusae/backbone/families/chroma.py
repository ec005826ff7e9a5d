"""Chroma: FLUX.1's latents; its single-stream blocks hold [text, picture] in one sequence."""

from __future__ import annotations

from typing import Any

from diffusae.backbone.blocks import Block
from diffusae.backbone.families.flux import DOUBLE, FluxAdapter
from diffusae.backbone.families.flux2 import SINGLE


class ChromaAdapter(FluxAdapter):
    """T5 is the only text encoder. A mask gives most of its padding less weight in the attention.
    With a guidance scale above 1 a pass for `uncond` follows that for `cond`."""

    family = "Chroma"
    denoisers = ("ChromaTransformer2DModel",)
    pipelines = ("ChromaPipeline",)
    with_a_picture = ("ChromaImg2ImgPipeline", "ChromaInpaintPipeline")
    layout = "guided_passes"
    blocks = {
        "transformer_blocks": Block("ChromaTransformerBlock", count="num_layers", **DOUBLE),
        "single_transformer_blocks": Block(
            "ChromaSingleTransformerBlock", count="num_single_layers", picture=SINGLE, text=SINGLE
        ),
    }
    padded = {"ChromaPipeline": 512}

    def guidance(self, guidance: float, true_guidance: float | None, count: int) -> dict[str, Any]:
        return {"guidance_scale": guidance}

    def words(self, pipe: Any, text_tokens: int | None) -> tuple[Any, int]:
        own = pipe.tokenizer
        return own, self.tokens(type(pipe), own.model_max_length, text_tokens)
