"""Stable Diffusion 1 and XL."""

from typing import Any

from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import (
    StableDiffusionXLPipeline,
)
from transformers import CLIPTextModelWithProjection

from tiny_families.parts import GUIDED, PIXELS, Family, family_vae
from tiny_pipeline import ddim, stable_diffusion, text_encoder, tiny_tokenizer, unet


def sd() -> Any:
    return stable_diffusion((8, 8, 16, 16), pixels=PIXELS)


def sdxl() -> Any:
    denoiser = unet(
        cross_attention_dim=64,
        transformer_layers_per_block=(1, 2),
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 32,
        use_linear_projection=True,
    )
    return StableDiffusionXLPipeline(
        unet=denoiser,
        vae=family_vae(force_upcast=True),
        text_encoder=text_encoder(),
        text_encoder_2=text_encoder(CLIPTextModelWithProjection),
        tokenizer=tiny_tokenizer(),
        tokenizer_2=tiny_tokenizer(),
        scheduler=ddim(),
    )


_BLOCKS = {
    "down": ("down_blocks.0.attentions.0", (8, 8), 32),
    "mid": ("mid_block.attentions.0", (4, 4), 64),
    "up": ("up_blocks.1.attentions.0", (8, 8), 32),
}
FAMILIES = {"sd": Family(sd, _BLOCKS, GUIDED), "sdxl": Family(sdxl, _BLOCKS, GUIDED)}
