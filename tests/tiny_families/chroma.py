"""Chroma."""

from collections.abc import Mapping
from typing import Any

from diffusers.models.transformers.transformer_chroma import ChromaTransformer2DModel
from diffusers.pipelines.chroma.pipeline_chroma import ChromaPipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from torch import Tensor

from tiny_families.flux import packed, unpacked
from tiny_families.parts import T5_TOKENS, Family, family_vae, places, t5, t5_tokenizer


def chroma() -> Any:
    transformer = ChromaTransformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=(4, 6, 6),
        approximator_num_channels=16,
        approximator_hidden_dim=32,
        approximator_layers=2,
    )
    return ChromaPipeline(
        transformer=transformer,
        vae=family_vae(shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=t5(32),
        tokenizer=t5_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


def picture(given: Mapping[str, Any], output: Any) -> tuple[Tensor, Tensor]:
    """Double-stream blocks return (text, picture); single-stream blocks hold the text first."""
    if isinstance(output, tuple):
        return given["hidden_states"], output[1]
    return given["hidden_states"][:, T5_TOKENS:], output[:, T5_TOKENS:]


_BLOCKS = places("transformer_blocks.0", "transformer_blocks.1", "single_transformer_blocks.1")
FAMILIES = {
    "chroma": Family(
        chroma,
        _BLOCKS,
        {"guidance": 5.0, "text_tokens": T5_TOKENS},
        passes=(("cond",), ("uncond",)),
        call={"max_sequence_length": T5_TOKENS},
        picture=picture,
        pack=packed,
        unpack=unpacked,
        attention="text_first",
    )
}
