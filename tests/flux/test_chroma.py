"""Chroma's mask: most of the padding has less weight in the attention."""

from typing import Any

import torch
from torch import Tensor

from diffusae.backbone.families.table import adapter_of
from diffusae.capture.attention import capture_cross_attention, word_tokens
from flux.given_pictures import PROMPTS, STEPS, call
from tiny_families import T5_TOKENS
from tiny_families.chroma import chroma
from tiny_pipeline import seeded


def test_maps_of_two_prompts_of_unequal_length_follow_their_masks(monkeypatch: Any) -> None:
    """Beside the layers' own attention: what they add to the products is 1, and 0 for padding."""
    pipe = seeded(chroma, 0)
    times = adapter_of(pipe).schedule(pipe.scheduler, STEPS, 12).tolist()
    own, shares, masks = torch.nn.functional.scaled_dot_product_attention, [], []

    def attend(query: Tensor, key: Tensor, value: Tensor, *args: Any, **options: Any) -> Tensor:
        mask = args[0] if args else options.get("attn_mask")
        if mask is not None and query.shape[2] == T5_TOKENS + 12:
            scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5 + mask
            shares.append(scores.softmax(dim=-1)[:, :, T5_TOKENS:, :T5_TOKENS])
            masks.append(mask)
        return own(query, key, value, *args, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attend)
    with capture_cross_attention(pipe, times) as captured:
        call(pipe, max_sequence_length=T5_TOKENS)
    # Two double-stream and two single-stream blocks, cond and uncond, three steps
    assert len(shares) == 4 * 2 * STEPS
    assert masks[0].is_floating_point() and not torch.equal(masks[0][0], masks[0][1])
    for step, timestep in enumerate(times):
        for block in range(2):
            share = shares[8 * step + block]
            expected = (share / share.sum(-1, keepdim=True)).mean(dim=1)
            maps = captured.maps[f"transformer_blocks.{block}", timestep]
            torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-5)


def test_words_are_those_of_the_only_tokenizer() -> None:
    pipe = seeded(chroma, 0)
    tokenizer, limit = adapter_of(pipe).words(pipe, None)
    assert tokenizer is pipe.tokenizer and limit == 512
    assert adapter_of(pipe).words(pipe, T5_TOKENS)[1] == T5_TOKENS
    assert word_tokens(tokenizer, PROMPTS[0], "cat", limit=limit)
