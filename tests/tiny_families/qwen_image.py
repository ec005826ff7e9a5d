"""Qwen-Image: joint blocks, two passes, 2 x 2 packing, an autoencoder for videos, Qwen2.5-VL."""

from typing import Any

from diffusers.models.autoencoders.autoencoder_kl_qwenimage import AutoencoderKLQwenImage
from diffusers.models.transformers.transformer_qwenimage import QwenImageTransformer2DModel
from diffusers.pipelines.qwenimage.pipeline_qwenimage import QwenImagePipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from torch import Tensor

from tiny_families.flux import packed
from tiny_families.language_models import WIDTH, qwen_tokenizer, qwen_vl
from tiny_families.parts import Family, places

TEMPLATE = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, "
    "quantity, text, spatial relationships of the objects and background:<|im_end|>\n"
    "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)
"""What the pipeline puts around a prompt. With whole words as tokens, 34 come before the prompt, as
with the published tokenizer."""


def qwen_image() -> Any:
    tokenizer = qwen_tokenizer(TEMPLATE)
    transformer = QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=3,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(4, 6, 6),
    )
    vae = AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 1, 2, 2],
        num_res_blocks=1,
        latents_mean=[-0.8, -0.7, 0.1, 0.9],
        latents_std=[2.8, 1.5, 2.3, 1.2],
    )
    return QwenImagePipeline(
        transformer=transformer,
        vae=vae,
        text_encoder=qwen_vl(tokenizer),
        tokenizer=tokenizer,
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True,
            base_image_seq_len=16,
            max_image_seq_len=64,
            max_shift=0.9,
            shift_terminal=0.02,
        ),
    )


def unpacked(pipe: Any, latents: Tensor, height: int, width: int) -> Tensor:
    """Of a video of one frame."""
    return pipe._unpack_latents(latents, height, width, pipe.vae_scale_factor)[:, :, 0]


FAMILIES = {
    "qwen_image": Family(
        qwen_image,
        places(*(f"transformer_blocks.{place}" for place in range(3))),
        {"guidance": 4.0, "true_guidance": 4.0},
        passes=(("cond",), ("uncond",)),
        unguided={"true_guidance": None},
        call={"true_cfg_scale": 4.0, "negative_prompt": ["", ""]},
        pack=packed,
        unpack=unpacked,
        attention="text_first",
        strong=r"txt_in\.weight",
    )
}
