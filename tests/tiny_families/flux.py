"""FLUX.1."""

from typing import Any

from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from diffusers.pipelines.flux.pipeline_flux import FluxPipeline
from diffusers.pipelines.flux.pipeline_flux_kontext import FluxKontextPipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from torch import Tensor

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


def kontext() -> Any:
    """Without a picture it is FLUX.1 dev, but for the size: it keeps to an area."""
    names = ("transformer", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
    parts = flux().components
    return FluxKontextPipeline(**{name: parts[name] for name in (*names, "scheduler")})


def packed(pipe: Any, latents: Tensor) -> Tensor:
    return pipe._pack_latents(latents, *latents.shape)


def unpacked(pipe: Any, latents: Tensor, height: int, width: int) -> Tensor:
    return pipe._unpack_latents(latents, height, width, pipe.vae_scale_factor)


_BLOCKS = places("transformer_blocks.0", "transformer_blocks.1", "single_transformer_blocks.1")
_CALL = {"true_cfg_scale": 5.0, "negative_prompt": ["", ""], "max_sequence_length": T5_TOKENS}


def _family(make: Any, **call: Any) -> Family:
    return Family(
        make,
        _BLOCKS,
        {"guidance": 3.5, "true_guidance": 5.0, "text_tokens": T5_TOKENS},
        passes=(("cond",), ("uncond",)),
        unguided={"true_guidance": None},
        call=_CALL | call,
        pack=packed,
        unpack=unpacked,
        attention="text_first",
    )


FAMILIES = {"flux": _family(flux), "flux_kontext": _family(kontext, max_area=32 * 96)}
