"""PixArt alpha."""

from typing import Any

from diffusers.models.transformers.pixart_transformer_2d import PixArtTransformer2DModel
from diffusers.pipelines.pixart_alpha.pipeline_pixart_alpha import PixArtAlphaPipeline

from tiny_families.parts import GUIDED, T5_TOKENS, Family, family_vae, places, t5, t5_tokenizer
from tiny_pipeline import ddim


def pixart() -> Any:
    transformer = PixArtTransformer2DModel(
        num_attention_heads=3,
        attention_head_dim=16,
        in_channels=4,
        out_channels=8,
        num_layers=3,
        cross_attention_dim=48,
        attention_bias=True,
        sample_size=128,
        patch_size=2,
        caption_channels=32,
        interpolation_scale=1,
    )
    return PixArtAlphaPipeline(
        transformer=transformer,
        vae=family_vae(),
        text_encoder=t5(32),
        tokenizer=t5_tokenizer(),
        scheduler=ddim(),
    )


_BLOCKS = places(*(f"transformer_blocks.{place}" for place in range(3)), d_in=48)
FAMILIES = {"pixart": Family(pixart, _BLOCKS, GUIDED | {"text_tokens": T5_TOKENS})}
