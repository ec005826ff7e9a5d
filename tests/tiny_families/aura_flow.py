"""AuraFlow."""

import string
from typing import Any

from diffusers.models.transformers.auraflow_transformer_2d import AuraFlowTransformer2DModel
from diffusers.pipelines.aura_flow.pipeline_aura_flow import AuraFlowPipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from torch import Tensor
from transformers import LlamaTokenizer

from tiny_families.parts import T5_TOKENS, Family, family_vae
from tiny_families.umt5 import umt5

REGISTERS = 8
"""Learned tokens before those of the prompt."""


def llama_tokenizer() -> Any:
    """Letters as tokens, and " cat" as one."""
    special = ["<pad>", "</s>", "<s>", "<unk>"]
    tokens = [*special, "▁", *string.ascii_lowercase, "ca", "cat", "▁cat"]
    merges: Any = [("c", "a"), ("ca", "t"), ("▁", "cat")]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return LlamaTokenizer(
        vocab=vocabulary, merges=merges, pad_token="<pad>", model_max_length=T5_TOKENS
    )


def aura_flow() -> Any:
    """Joint blocks, then blocks over one sequence of registers, text and picture."""
    transformer = AuraFlowTransformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_mmdit_layers=2,
        num_single_dit_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=32,
        pos_embed_max_size=64,
    )
    return AuraFlowPipeline(
        transformer=transformer,
        vae=family_vae(),
        text_encoder=umt5(32, len(llama_tokenizer())),
        tokenizer=llama_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.73),
    )


def picture(given: Any, output: Any) -> tuple[Tensor, Tensor]:
    """The second output of a joint block; in a single block what follows registers and text."""
    if isinstance(output, tuple):
        return given["hidden_states"], output[1]
    text = REGISTERS + T5_TOKENS
    return given["hidden_states"][:, text:], output[:, text:]


FAMILIES = {
    "aura_flow": Family(
        aura_flow,
        {
            "down": ("joint_transformer_blocks.0", (4, 4), 32),
            "mid": ("joint_transformer_blocks.1", (4, 4), 32),
            "up": ("single_transformer_blocks.1", (4, 4), 32),
        },
        {"guidance": 5.0, "text_tokens": T5_TOKENS},
        call={"max_sequence_length": T5_TOKENS},
        picture=picture,
        attention="text_first",
        registers=REGISTERS,
        strong=r"\.norm1\.linear\.",
    )
}
