"""Pipelines of videos: Wan 2.1 and 2.2, and LTX."""

from types import SimpleNamespace
from typing import Any

import diffusers.pipelines.wan.pipeline_wan as pipeline_wan
from diffusers.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTXVideo
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_ltx import LTXVideoTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from diffusers.pipelines.ltx.pipeline_ltx import LTXPipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from torch import Tensor

from tiny_families.parts import T5_TOKENS, Family, places, t5, t5_tokenizer
from tiny_families.umt5 import umt5

if not hasattr(pipeline_wan, "ftfy"):  # an optional package, which mends broken characters
    pipeline_wan.ftfy = SimpleNamespace(fix_text=str)  # type: ignore[attr-defined]


def _wan_transformer() -> Any:
    return WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=16,
        out_channels=16,
        text_dim=32,
        freq_dim=32,
        ffn_dim=37,
        num_layers=3,
    )


def wan(*, two_denoisers: bool = False, expand_timesteps: bool = False) -> Any:
    """Wan 2.1. Wan 2.2 has a second denoiser for low noise (A14B), or a time for every position
    (TI2V 5B).
    """
    vae = AutoencoderKLWan(base_dim=4, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
    scheduler: Any = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    return pipeline_wan.WanPipeline(
        transformer=_wan_transformer(),
        transformer_2=_wan_transformer() if two_denoisers else None,
        boundary_ratio=0.875 if two_denoisers else None,
        expand_timesteps=expand_timesteps,
        vae=vae,
        text_encoder=umt5(32, len(t5_tokenizer())),
        tokenizer=t5_tokenizer(),
        scheduler=scheduler,
    )


def ltx() -> Any:
    vae = AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(4, 4, 4, 4),
        decoder_block_out_channels=(4, 4, 4, 4),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
    )
    transformer = LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=2,
        attention_head_dim=16,
        cross_attention_dim=32,
        num_layers=3,
        caption_channels=32,
    )
    return LTXPipeline(
        transformer=transformer,
        vae=vae,
        text_encoder=t5(32),
        tokenizer=t5_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True,
            base_image_seq_len=4,
            max_image_seq_len=64,
            base_shift=0.95,
            max_shift=2.05,
            shift_terminal=0.1,
        ),
    )


def _packed(pipe: Any, latents: Tensor) -> Tensor:
    return pipe._pack_latents(latents)


def _unpacked(pipe: Any, latents: Tensor, height: int, width: int) -> Tensor:
    side = pipe.vae_spatial_compression_ratio
    return pipe._unpack_latents(latents, 3, height // side, width // side)


_ASKED = {"guidance": 5.0, "text_tokens": T5_TOKENS}
_CALL = {"max_sequence_length": T5_TOKENS}
FAMILIES = {
    "wan": Family(
        wan,
        places(*(f"blocks.{place}" for place in range(3)), grid=(3, 4, 4)),
        _ASKED,
        passes=(("cond",), ("uncond",)),
        call=_CALL,
        needs={"num_frames": 9},
        latents=(16, 3, 8, 8),
    ),
    "ltx": Family(
        ltx,
        places(*(f"transformer_blocks.{place}" for place in range(3)), grid=(3, 2, 2)),
        _ASKED,
        call=_CALL,
        needs={"num_frames": 17},
        latents=(8, 3, 2, 2),
        pack=_packed,
        unpack=_unpacked,
    ),
}
