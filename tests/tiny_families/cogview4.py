"""CogView 4: joint blocks that return (picture, text), two passes, GLM with padding on the left."""

from collections.abc import Mapping
from typing import Any

from diffusers.models.transformers.transformer_cogview4 import CogView4Transformer2DModel
from diffusers.pipelines.cogview4.pipeline_cogview4 import CogView4Pipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from torch import Tensor

from tiny_families.language_models import WIDTH, byte_tokenizer, glm
from tiny_families.parts import Family, family_vae, places


def cogview4() -> Any:
    tokenizer = byte_tokenizer(padding_side="left", model_max_length=128)
    transformer = CogView4Transformer2DModel(
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=3,
        attention_head_dim=16,
        num_attention_heads=2,
        text_embed_dim=WIDTH,
        time_embed_dim=16,
        condition_dim=8,
        sample_size=8,
        rope_axes_dim=(16, 16),
    )
    return CogView4Pipeline(
        transformer=transformer,
        vae=family_vae(use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=glm(tokenizer),
        tokenizer=tokenizer,
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True,
            base_shift=0.25,
            max_shift=0.75,
            base_image_seq_len=16,
            time_shift_type="linear",
        ),
    )


def picture(given: Mapping[str, Any], output: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return given["hidden_states"], output[0]


FAMILIES = {
    "cogview4": Family(
        cogview4,
        places(*(f"transformer_blocks.{place}" for place in range(3))),
        {"guidance": 5.0},
        passes=(("cond",), ("uncond",)),
        picture=picture,
        attention=None,
        strong=r"text_proj\.weight",
    )
}
