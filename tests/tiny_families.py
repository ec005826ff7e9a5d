"""A pipeline with random weights of every family that conf/model names: 64 px pictures, latents 8 x
8, d_in 32 to 64.

Each is of the published class, with text encoders and tokenizers made on the spot.
"""

from __future__ import annotations

import string
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.transformers.pixart_transformer_2d import PixArtTransformer2DModel
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.flux.pipeline_flux import FluxPipeline
from diffusers.pipelines.pixart_alpha.pipeline_pixart_alpha import PixArtAlphaPipeline
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import (
    StableDiffusion3Pipeline,
)
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import (
    StableDiffusionXLPipeline,
)
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from tiny_pipeline import TOKENS, tiny_tokenizer

T5_TOKENS = 24
PIXELS = 64


@dataclass(frozen=True)
class Family:
    """How a family is made, and what is to be found in it."""

    make: Callable[[], Any]
    blocks: dict[str, tuple[str, tuple[int, int], int]]
    """{block: (path, grid at 64 x 64 px, d_in)}"""
    asked: dict[str, Any]
    """What `generate` is told for both branches of guidance."""
    scheduler: str = "keep"

    @property
    def hookpoints(self) -> dict[str, str | int]:
        return {block: path for block, (path, *_) in self.blocks.items()}


def text_encoder(kind: Any = CLIPTextModel, **options: Any) -> Any:
    """A CLIP text encoder of two layers over the tiny tokenizer's tokens."""
    config: dict[str, Any] = {
        "vocab_size": len(tiny_tokenizer()),
        "hidden_size": 32,
        "intermediate_size": 37,
    }
    config |= {"num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": TOKENS}
    config |= {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1, "projection_dim": 32}
    return kind(CLIPTextConfig(**(config | options)))


def _t5(width: int) -> Any:
    config: dict[str, Any] = {
        "vocab_size": len(_t5_tokenizer()),
        "d_model": width,
        "d_kv": 8,
        "d_ff": 37,
        "num_layers": 2,
    }
    return T5EncoderModel(T5Config(**config, num_heads=4, pad_token_id=0, eos_token_id=1))


def _t5_tokenizer() -> Any:
    """Letters as tokens, and " cat" as one."""
    letters = [(letter, -3.0) for letter in string.ascii_lowercase]
    vocabulary: Any = [
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        ("▁", -2.0),
        *letters,
        ("▁cat", -1.0),
    ]
    return T5Tokenizer(vocab=vocabulary, extra_ids=0, model_max_length=T5_TOKENS)


def _vae(channels: int, **options: Any) -> Any:
    config: dict[str, Any] = {"block_out_channels": (8, 8, 16, 16), "latent_channels": channels}
    config |= {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
    }
    return AutoencoderKL(**config, norm_num_groups=4, sample_size=PIXELS, **options)


def _unet(**options: Any) -> Any:
    config: dict[str, Any] = {
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "layers_per_block": 1,
    }
    config |= {"block_out_channels": (32, 64), "norm_num_groups": 8, "attention_head_dim": 4}
    config |= {
        "down_block_types": ("CrossAttnDownBlock2D",) * 2,
        "up_block_types": ("CrossAttnUpBlock2D",) * 2,
    }
    return UNet2DConditionModel(**(config | options))


def _ddim() -> Any:
    made: Any = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    return made


def sd() -> Any:
    absent: Any = None
    return StableDiffusionPipeline(
        unet=_unet(cross_attention_dim=32),
        vae=_vae(4),
        text_encoder=text_encoder(),
        tokenizer=tiny_tokenizer(),
        scheduler=_ddim(),
        safety_checker=absent,
        feature_extractor=absent,
        requires_safety_checker=False,
    )


def sdxl() -> Any:
    unet = _unet(
        cross_attention_dim=64,
        transformer_layers_per_block=(1, 2),
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 32,
        use_linear_projection=True,
    )
    return StableDiffusionXLPipeline(
        unet=unet,
        vae=_vae(4, force_upcast=True),
        text_encoder=text_encoder(),
        text_encoder_2=text_encoder(CLIPTextModelWithProjection),
        tokenizer=tiny_tokenizer(),
        tokenizer_2=tiny_tokenizer(),
        scheduler=_ddim(),
    )


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
        vae=_vae(4, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=text_encoder(CLIPTextModelWithProjection),
        text_encoder_2=text_encoder(CLIPTextModelWithProjection),
        text_encoder_3=_t5(64),
        tokenizer=tiny_tokenizer(),
        tokenizer_2=tiny_tokenizer(),
        tokenizer_3=_t5_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


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
        vae=_vae(4, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=text_encoder(),
        text_encoder_2=_t5(32),
        tokenizer=tiny_tokenizer(),
        tokenizer_2=_t5_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, base_image_seq_len=16, max_image_seq_len=64, max_shift=1.15
        ),
    )


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
        vae=_vae(4),
        text_encoder=_t5(32),
        tokenizer=_t5_tokenizer(),
        scheduler=_ddim(),
    )


_UNET = {
    "down": ("down_blocks.0.attentions.0", (8, 8), 32),
    "mid": ("mid_block.attentions.0", (4, 4), 64),
    "up": ("up_blocks.1.attentions.0", (8, 8), 32),
}
_TRANSFORMER = {
    block: (f"transformer_blocks.{place}", (4, 4), 32)
    for place, block in enumerate(("down", "mid", "up"))
}
_PIXART = {block: (path, grid, 48) for block, (path, grid, _) in _TRANSFORMER.items()}
_FLUX = {**_TRANSFORMER, "up": ("single_transformer_blocks.1", (4, 4), 32)}
_GUIDED = {"guidance": 5.0}
FAMILIES = {
    "sd": Family(sd, _UNET, _GUIDED),
    "sdxl": Family(sdxl, _UNET, _GUIDED),
    "sd3": Family(sd3, _TRANSFORMER, _GUIDED | {"text_tokens": T5_TOKENS}),
    "flux": Family(flux, _FLUX, {"guidance": 3.5, "true_guidance": 5.0, "text_tokens": T5_TOKENS}),
    "pixart": Family(pixart, _PIXART, _GUIDED | {"text_tokens": T5_TOKENS}),
}


def tiny_family(name: str, seed: int = 0) -> Any:
    """A fresh pipeline of a family on the CPU in float32, the same for the same seed; global
    randomness is untouched.

    What reads the text is made strong, so that prompts and branches differ by more than rounding.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        pipe = FAMILIES[name].make()
    for component in pipe.components.values():
        if isinstance(component, torch.nn.Module):
            component.eval()
    denoiser = getattr(pipe, "unet", None) or pipe.transformer
    for path, parameter in denoiser.named_parameters():
        if any(
            part in path for part in (".attn2.to_", ".add_v_proj.", "context_embedder.")
        ) and path.endswith("weight"):
            parameter.data *= 4.0
    pipe.set_progress_bar_config(disable=True)
    return pipe
