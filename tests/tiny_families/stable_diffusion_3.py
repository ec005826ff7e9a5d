"""Stable Diffusion 3."""

from typing import Any

from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import (
    StableDiffusion3Pipeline,
)
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from transformers import CLIPTextModelWithProjection

from tiny_families.parts import GUIDED, T5_TOKENS, Family, family_vae, places, t5, t5_tokenizer
from tiny_pipeline import text_encoder, tiny_tokenizer


def sd3() -> Any:
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=3,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=64,
        caption_projection_dim=32,
        pooled_projection_dim=64,
        pos_embed_max_size=8,
    )
    return StableDiffusion3Pipeline(
        transformer=transformer,
        vae=family_vae(shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=text_encoder(CLIPTextModelWithProjection),
        text_encoder_2=text_encoder(CLIPTextModelWithProjection),
        text_encoder_3=t5(64),
        tokenizer=tiny_tokenizer(),
        tokenizer_2=tiny_tokenizer(),
        tokenizer_3=t5_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


_BLOCKS = places(*(f"transformer_blocks.{place}" for place in range(3)))
FAMILIES = {"sd3": Family(sd3, _BLOCKS, GUIDED | {"text_tokens": T5_TOKENS})}
