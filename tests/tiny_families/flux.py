"""FLUX.1."""

from typing import Any

from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from diffusers.pipelines.flux.pipeline_flux import FluxPipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)

from tiny_families.parts import T5_TOKENS, Family, family_vae, places, t5, t5_tokenizer
from tiny_pipeline import text_encoder, tiny_tokenizer


def flux() -> Any:
    """As FLUX.1 dev: guidance is embedded, the schedule is shifted by the size of the picture."""
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        guidance_embeds=True,
        axes_dims_rope=(4, 6, 6),
    )
    return FluxPipeline(
        transformer=transformer,
        vae=family_vae(shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=text_encoder(),
        text_encoder_2=t5(32),
        tokenizer=tiny_tokenizer(),
        tokenizer_2=t5_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, base_image_seq_len=16, max_image_seq_len=64, max_shift=1.15
        ),
    )


_BLOCKS = places("transformer_blocks.0", "transformer_blocks.1", "single_transformer_blocks.1")
FAMILIES = {
    "flux": Family(flux, _BLOCKS, {"guidance": 3.5, "true_guidance": 5.0, "text_tokens": T5_TOKENS})
}
