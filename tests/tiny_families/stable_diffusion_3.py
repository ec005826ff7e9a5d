"""Stable Diffusion 3 and 3.5, with T5 and without."""

from typing import Any

from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import (
    StableDiffusion3Pipeline,
)
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from transformers import CLIPTextModelWithProjection

from tiny_families.family import T5_TOKENS, Family
from tiny_families.parts import t5, t5_tokenizer, vae
from tiny_pipeline import text_encoder, tiny_tokenizer


def sd3(*, with_t5: bool = True, **options: Any) -> Any:
    config: dict[str, Any] = {"sample_size": 8, "patch_size": 2, "in_channels": 4}
    config |= {"out_channels": 4, "num_layers": 3, "attention_head_dim": 16}
    config |= {"num_attention_heads": 2, "joint_attention_dim": 64, "caption_projection_dim": 32}
    config |= {"pooled_projection_dim": 64, "pos_embed_max_size": 8}
    absent: Any = None
    return StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(**config | options),
        vae=vae(shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=text_encoder(CLIPTextModelWithProjection),
        text_encoder_2=text_encoder(CLIPTextModelWithProjection),
        text_encoder_3=t5(64) if with_t5 else absent,
        tokenizer=tiny_tokenizer(),
        tokenizer_2=tiny_tokenizer(),
        tokenizer_3=t5_tokenizer() if with_t5 else absent,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


def sd35() -> Any:
    """As 3.5 medium: the first half of its blocks attends a second time, to the picture alone; q
    and k are normed. 3.5 large has the norms alone."""
    return sd3(dual_attention_layers=(0, 1), qk_norm="rms_norm")


def sd35_without_t5() -> Any:
    return sd3(with_t5=False, dual_attention_layers=(0, 1), qk_norm="rms_norm")


_BLOCKS: dict[str, tuple[str, tuple[int, ...], int]] = {
    block: (f"transformer_blocks.{place}", (4, 4), 32)
    for place, block in enumerate(("down", "mid", "up"))
}
_ASKED = {"guidance": 5.0, "text_tokens": T5_TOKENS}
_CALL = {"max_sequence_length": T5_TOKENS}
FAMILIES = {
    name: Family(make, _BLOCKS, _ASKED, call=_CALL, attention="picture_first")
    for name, make in {"sd3": sd3, "sd35": sd35, "sd35_without_t5": sd35_without_t5}.items()
}
