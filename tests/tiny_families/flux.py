"""FLUX.1, and its pipelines that take a picture."""

from typing import Any

import numpy as np
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from diffusers.pipelines.flux.pipeline_flux import FluxPipeline
from diffusers.pipelines.flux.pipeline_flux_control import FluxControlPipeline
from diffusers.pipelines.flux.pipeline_flux_fill import FluxFillPipeline
from diffusers.pipelines.flux.pipeline_flux_kontext import FluxKontextPipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from PIL import Image
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


def with_parts_of_flux(kind: Any, **config: Any) -> Any:
    """A pipeline of this class with the parts of a tiny FLUX and a changed denoiser."""
    parts = flux().components
    own = {k: v for k, v in parts["transformer"].config.items() if not k.startswith("_")}
    parts = {k: v for k, v in parts.items() if k not in ("image_encoder", "feature_extractor")}
    return kind(**parts | {"transformer": FluxTransformer2DModel(**own | config)})


def fill() -> Any:
    """Its denoiser takes latents, those of the masked picture, and 8 x 8 pixels of the mask an
    entry."""
    return with_parts_of_flux(FluxFillPipeline, in_channels=16 + 16 + 4 * 64, out_channels=16)


def control() -> Any:
    return with_parts_of_flux(FluxControlPipeline, in_channels=32, out_channels=16)


def picture(height: int, width: int) -> Any:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


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


def _with_picture(make: Any, **needs: Any) -> Family:
    return Family(
        make,
        _BLOCKS,
        {"guidance": 30.0, "text_tokens": T5_TOKENS},
        passes=(("cond",),),
        unguided={},
        call={"max_sequence_length": T5_TOKENS},
        needs=needs,
        pack=packed,
        unpack=unpacked,
        attention="text_first",
    )


_GIVEN = picture(32, 96)
FAMILIES = {
    "flux": _family(flux),
    "flux_kontext": _family(kontext, max_area=32 * 96),
    "flux_fill": _with_picture(fill, image=_GIVEN, mask_image=_GIVEN.convert("L")),
    "flux_control": _with_picture(control, control_image=_GIVEN),
}
