"""A Stable Diffusion pipeline with random weights, small enough for every test: 8x8 latents, 16x16
pictures.

Its cross-attention is made strong, so that prompts and branches differ by more than rounding.
"""

from __future__ import annotations

import string
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

HOOKPOINTS = {
    "down": "down_blocks.0.attentions.0",
    "mid": "mid_block.attentions.0",
    "up": "up_blocks.1.attentions.0",
}
D_IN = {"down": 32, "mid": 64, "up": 32}
GRIDS = {"down": (8, 8), "mid": (4, 4), "up": (8, 8)}
TOKENS = 16


def tiny_tokenizer() -> CLIPTokenizer:
    """Letters as tokens, and `cat` as one: "cats" is three (ca, t, s), "dog" is three (d, o, g)."""
    letters = [letter + end for letter in string.ascii_lowercase for end in ("", "</w>")]
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, "ca", "cat</w>"]
    merges: Any = [("c", "a"), ("ca", "t</w>")]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=TOKENS)


def tiny_pipeline(seed: int = 0) -> StableDiffusionPipeline:
    """A fresh pipeline on the CPU in float32, the same for the same seed; global randomness is
    untouched.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            block_out_channels=(32, 64),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            mid_block_type="UNetMidBlock2DCrossAttn",
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=32,
            attention_head_dim=4,
            norm_num_groups=8,
        )
        for name, parameter in unet.named_parameters():
            if ".attn2.to_" in name and name.endswith("weight"):
                parameter.data *= 4.0
        vae_options: dict[str, Any] = {
            "block_out_channels": (8, 16),
            "down_block_types": ("DownEncoderBlock2D", "DownEncoderBlock2D"),
            "up_block_types": ("UpDecoderBlock2D", "UpDecoderBlock2D"),
            "latent_channels": 4,
            "norm_num_groups": 4,
            "sample_size": 16,
        }
        vae = AutoencoderKL(**vae_options)
        tokenizer = tiny_tokenizer()
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=32,
                intermediate_size=37,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=TOKENS,
                bos_token_id=0,
                eos_token_id=1,
                pad_token_id=1,
            )
        )
    scheduler: Any = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    absent: Any = None
    pipe = StableDiffusionPipeline(
        unet=unet.eval(),
        vae=vae.eval(),
        text_encoder=text_encoder.eval(),
        tokenizer=tokenizer,
        scheduler=scheduler,
        safety_checker=absent,
        feature_extractor=absent,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe
