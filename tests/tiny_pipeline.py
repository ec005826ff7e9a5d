"""A Stable Diffusion pipeline with random weights, small enough for every test: 8x8 latents, 16x16
pictures.

Its cross-attention is made strong, so that prompts and branches differ by more than rounding.
"""

import re
import string
from collections.abc import Callable
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
    return seeded(lambda: stable_diffusion((8, 16), pixels=16), seed)


def seeded(make: Callable[[], Any], seed: int, *, strong: str = "") -> Any:
    """The pipeline that `make` makes with this seed, made ready. What reads the text is made
    strong: parameters of usual names, and those whose names `strong` matches."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        pipe = make()
    for component in pipe.components.values():
        if isinstance(component, torch.nn.Module):
            component.eval()
    denoiser = getattr(pipe, "unet", None) or pipe.transformer
    usual = r"(\.attn2\.to_|\.add_v_proj\.|context_embedder\.).*weight$"
    for path, parameter in denoiser.named_parameters():
        if re.search(usual, path) or (strong and re.search(strong, path)):
            parameter.data *= 4.0
    pipe.set_progress_bar_config(disable=True)
    return pipe


def stable_diffusion(widths: tuple[int, ...], *, pixels: int) -> StableDiffusionPipeline:
    """With a decoder of these widths, for pictures of so many pixels."""
    absent: Any = None
    return StableDiffusionPipeline(
        unet=unet(cross_attention_dim=32),
        vae=vae(widths, sample_size=pixels),
        text_encoder=text_encoder(),
        tokenizer=tiny_tokenizer(),
        scheduler=ddim(),
        safety_checker=absent,
        feature_extractor=absent,
        requires_safety_checker=False,
    )


def unet(**options: Any) -> UNet2DConditionModel:
    config: dict[str, Any] = {"sample_size": 8, "in_channels": 4, "out_channels": 4}
    config |= {"block_out_channels": (32, 64), "norm_num_groups": 8, "attention_head_dim": 4}
    config |= {"down_block_types": ("CrossAttnDownBlock2D",) * 2, "layers_per_block": 1}
    config |= {"up_block_types": ("CrossAttnUpBlock2D",) * 2}
    return UNet2DConditionModel(**config, **options)


def vae(widths: tuple[int, ...], **options: Any) -> AutoencoderKL:
    config: dict[str, Any] = {"block_out_channels": widths, "norm_num_groups": 4}
    config |= {"down_block_types": ("DownEncoderBlock2D",) * len(widths), "latent_channels": 4}
    config |= {"up_block_types": ("UpDecoderBlock2D",) * len(widths)}
    return AutoencoderKL(**config, **options)


def text_encoder(kind: Any = CLIPTextModel, **options: Any) -> Any:
    """A CLIP text encoder of two layers over the tiny tokenizer's tokens."""
    config: dict[str, Any] = {"vocab_size": len(tiny_tokenizer()), "hidden_size": 32}
    config |= {"num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": TOKENS}
    config |= {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1, "projection_dim": 32}
    config |= {"intermediate_size": 37, **options}
    return kind(CLIPTextConfig(**config))


def ddim() -> Any:
    config: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
    config |= {"beta_schedule": "scaled_linear", "clip_sample": False, "set_alpha_to_one": False}
    return DDIMScheduler(**config)
