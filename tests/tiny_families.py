"""A pipeline with random weights of every family that conf/model names: 64 px pictures, latents 8 x
8, d_in 32 to 64.

Each is of the published class, with text encoders and tokenizers made on the spot.
"""

import string
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers.models.transformers.pixart_transformer_2d import PixArtTransformer2DModel
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from diffusers.pipelines.flux.pipeline_flux import FluxPipeline
from diffusers.pipelines.pixart_alpha.pipeline_pixart_alpha import PixArtAlphaPipeline
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import (
    StableDiffusion3Pipeline,
)
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import (
    StableDiffusionXLPipeline,
)
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from transformers import CLIPTextModelWithProjection, T5Config, T5EncoderModel, T5Tokenizer

from tiny_pipeline import ddim, seeded, stable_diffusion, text_encoder, tiny_tokenizer, unet, vae

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

    def overrides(self, folder: Path) -> list[str]:
        """The configuration of the pipeline that lies in a folder."""
        values = {**self.asked, "source": folder, "height": PIXELS, "width": PIXELS, "steps": 3}
        values |= {f"hookpoints.{block}": path for block, path in self.hookpoints.items()}
        options = [f"model.{name}={value}" for name, value in values.items()]
        return ["debug=tiny", "model=custom", *options, f"paths.outputs={folder.parent}"]


def _t5(width: int) -> Any:
    config: dict[str, Any] = {"vocab_size": len(_t5_tokenizer()), "d_model": width, "d_kv": 8}
    config |= {"d_ff": 37, "num_layers": 2, "num_heads": 4, "pad_token_id": 0, "eos_token_id": 1}
    return T5EncoderModel(T5Config(**config))


def _t5_tokenizer() -> Any:
    """Letters as tokens, and " cat" as one."""
    letters = [(letter, -3.0) for letter in string.ascii_lowercase]
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    vocabulary: Any = [*special, *letters, ("▁cat", -1.0)]
    return T5Tokenizer(vocab=vocabulary, extra_ids=0, model_max_length=T5_TOKENS)


def _vae(**options: Any) -> Any:
    return vae((8, 8, 16, 16), sample_size=PIXELS, **options)


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
        vae=_vae(force_upcast=True),
        text_encoder=text_encoder(),
        text_encoder_2=text_encoder(CLIPTextModelWithProjection),
        tokenizer=tiny_tokenizer(),
        tokenizer_2=tiny_tokenizer(),
        scheduler=ddim(),
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
        vae=_vae(shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False),
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
        vae=_vae(shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False),
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
        vae=_vae(),
        text_encoder=_t5(32),
        tokenizer=_t5_tokenizer(),
        scheduler=ddim(),
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
    """
    return seeded(FAMILIES[name].make, seed)
