"""Attention to the text, beside PyTorch's own attention inside the block."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from diffusae.capture.attention import capture_cross_attention, word_tokens
from diffusae.errors import UserError
from families.running import PROMPTS, Case


@contextmanager
def shares(case: Case, path: str) -> Iterator[list[list[Tensor]]]:
    """The softmax of all attention of a block, [rows, heads, queries, keys], by call of the
    block."""
    module, calls, running = case.denoiser.get_submodule(path), [], []
    own, forward = torch.nn.functional.scaled_dot_product_attention, module.forward

    def attend(query: Tensor, key: Tensor, value: Tensor, *args: Any, **options: Any) -> Tensor:
        if running:
            groups = query.shape[1] // key.shape[1]
            keys = key.float().repeat_interleave(groups, dim=1)
            scores = query.float() @ keys.transpose(-1, -2) * query.shape[-1] ** -0.5
            mask = args[0] if args else options.get("attn_mask")
            if mask is not None:
                allowed = mask if mask.dtype != torch.bool else torch.where(mask, 0.0, -torch.inf)
                scores = scores + allowed.float()
            calls[-1].append(scores.softmax(dim=-1))
        return own(query, key, value, *args, **options)

    def spy(*args: Any, **kwargs: Any) -> Any:
        calls.append([])
        running.append(1)
        try:
            return forward(*args, **kwargs)
        finally:
            running.pop()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", attend)
        patch.setattr(module, "forward", spy)
        yield calls


def to_text(case: Case, seen: list[Tensor], places: int, tokens: int) -> Tensor:
    """[rows, positions, tokens]: of the layers that attend to the text, the mean."""
    if case.family.attention == "cross":
        found = [share for share in seen if share.shape[-2:] == (places, tokens)]
    else:
        # The picture's tokens may be followed by padding (HiDream)
        before = case.family.registers
        joint = [share for share in seen if share.shape[-1] >= before + tokens + places]
        first, begin = case.family.attention == "text_first", before + tokens
        found = [
            share[:, :, begin : begin + places, before:begin]
            if first
            else share[:, :, :places, -tokens:]
            for share in joint
        ]
    assert found
    means = [(share / share.sum(-1, keepdim=True)).mean(dim=1) for share in found]
    return torch.stack(means).mean(dim=0)


def test_attention_to_the_text_is_what_the_layers_compute(case: Case) -> None:
    times = case.timesteps()
    if case.family.attention is None:
        with (
            pytest.raises(UserError, match="no cross-attention"),
            capture_cross_attention(case.pipe, times),
        ):
            case.make()
        pytest.skip("no layer attends to the text by keys of its own")
    with (
        shares(case, case.paths["mid"]) as calls,
        capture_cross_attention(case.pipe, times) as captured,
    ):
        case.make()
    assert {timestep for _, timestep in captured.maps} == set(times)
    for (path, _), maps in captured.maps.items():
        places = torch.Size(captured.grids[path]).numel()
        assert maps.shape[:2] == (2, places)
        torch.testing.assert_close(maps.sum(-1), torch.ones(maps.shape[:2]))
    path = case.paths["mid"]
    assert captured.grids[path] == case.grid("mid")
    for number, seen in enumerate(calls):
        step, rows = case.rows(number)
        if "cond" in rows:
            maps = captured.maps[path, times[step]]
            expected = to_text(case, seen, maps.shape[1], maps.shape[2])[rows["cond"]]
            torch.testing.assert_close(maps, expected, rtol=1e-3, atol=1e-5)


def test_a_word_is_found_among_the_tokens_that_the_blocks_read(case: Case) -> None:
    if case.family.attention is None:
        pytest.skip("no layer attends to the text by keys of its own")
    tokenizer, tokens = case.adapter.words(case.pipe, case.family.asked.get("text_tokens"))
    with capture_cross_attention(case.pipe, case.timesteps()) as captured:
        case.make()
    found = word_tokens(tokenizer, PROMPTS[0], "cat", limit=tokens)
    # Some pipelines pad prompts to the longest of a call alone (Qwen-Image)
    assert found and all(max(found) < maps.shape[-1] for maps in captured.maps.values())
    assert word_tokens(tokenizer, PROMPTS[0], "cat", limit=2) == []
