"""Z-Image: one sequence of picture and caption, latents in a list, the batch [cond, uncond]."""

from collections.abc import Mapping
from typing import Any

from diffusers.models.transformers.transformer_z_image import ZImageTransformer2DModel
from diffusers.pipelines.z_image.pipeline_z_image import ZImagePipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from torch import Tensor

from tiny_families.language_models import WIDTH, qwen3, qwen_tokenizer
from tiny_families.parts import Family, family_vae, places

TEXT_TOKENS = 64


def z_image() -> Any:
    tokenizer = qwen_tokenizer("user assistant")
    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=3,
        n_refiner_layers=2,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=WIDTH,
        axes_dims=[4, 6, 6],
        axes_lens=[256, 32, 32],
    )
    return ZImagePipeline(
        transformer=transformer,
        vae=family_vae(shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=qwen3(tokenizer),
        tokenizer=tokenizer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


def picture(given: Mapping[str, Any], output: Tensor) -> tuple[Tensor, Tensor]:
    """The tokens that share the first axis of their rotary positions with the first token: padding
    has 0 there, and the caption's tokens count up."""
    axis = given["freqs_cis"][..., :2]
    (count,) = (axis == axis[:, :1]).all(dim=-1).sum(dim=1).unique().tolist()
    return given["x"][:, :count], output[:, :count]


FAMILIES = {
    "z_image": Family(
        z_image,
        places("layers.0", "layers.1", "layers.2"),
        {"guidance": 4.0, "text_tokens": TEXT_TOKENS},
        passes=(("cond", "uncond"),),
        unguided={"guidance": 0.0},
        call={"max_sequence_length": TEXT_TOKENS},
        picture=picture,
        attention=None,
        strong=r"cap_embedder\.1\.weight",
    )
}
