"""Lumina 2: one sequence of text and picture, rows of different lengths, two passes."""

from collections.abc import Mapping
from typing import Any

from diffusers.models.transformers.transformer_lumina2 import Lumina2Transformer2DModel
from diffusers.pipelines.lumina2.pipeline_lumina2 import Lumina2Pipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from torch import Tensor

from tiny_families.language_models import WIDTH, gemma2, gemma_tokenizer
from tiny_families.parts import Family, family_vae, places

TEXT_TOKENS = 64
TEMPLATE = (
    "You are an assistant designed to generate superior images with the superior degree of "
    "image-text alignment based on textual prompts or user prompts. <Prompt Start> "
)


def lumina2() -> Any:
    tokenizer = gemma_tokenizer(TEMPLATE, add_bos_token=True)
    transformer = Lumina2Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        hidden_size=48,
        num_layers=3,
        num_refiner_layers=2,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=16,
        axes_dim_rope=(8, 8, 8),
        axes_lens=(80, 32, 32),
        cap_feat_dim=WIDTH,
    )
    return Lumina2Pipeline(
        transformer=transformer,
        vae=family_vae(shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=gemma2(tokenizer),
        tokenizer=tokenizer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=6.0),
    )


def picture(given: Mapping[str, Any], output: Tensor) -> tuple[Tensor, Tensor]:
    """Of two rows: from the token that shares the first axis of its rotary positions with the row's
    last token, as one view, so that it may be changed in place."""
    sequence, axis = given["hidden_states"], given["image_rotary_emb"][..., :4]
    mask = given["attention_mask"]
    ends = [sequence.shape[1]] * 2 if mask is None else mask.sum(dim=1).tolist()
    same = [(axis[row, :end] == axis[row, end - 1]).all(dim=-1) for row, end in enumerate(ends)]
    starts = [int(row.nonzero()[0]) for row in same]
    count = ends[0] - starts[0]
    assert count == ends[1] - starts[1]
    rows, tokens, _ = sequence.stride()
    strides = (rows + (starts[1] - starts[0]) * tokens, tokens, 1)
    shape = (2, count, sequence.shape[2])
    return tuple(  # type: ignore[return-value]
        one.as_strided(shape, strides, one.storage_offset() + starts[0] * tokens)
        for one in (sequence, output)
    )


FAMILIES = {
    "lumina2": Family(
        lumina2,
        places("layers.0", "layers.1", "layers.2", d_in=48),
        {"guidance": 4.0, "text_tokens": TEXT_TOKENS},
        passes=(("cond",), ("uncond",)),
        call={"max_sequence_length": TEXT_TOKENS},
        picture=picture,
        empty_prompt_is_encoded=False,  # a negative prompt gets no system prompt
        attention=None,
        strong=r"caption_embedder\.1\.weight|norm1\.linear\.weight",
    )
}
