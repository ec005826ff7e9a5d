"""Words of a prompt inside its pipeline's template."""

from typing import Any

import pytest
import torch

from diffusae.backbone.families.table import adapter_of
from diffusae.capture.attention import word_tokens
from tiny_families import tiny_family


def encoded_by_the_pipeline(pipe: Any, prompt: str) -> torch.Tensor:
    """The text's states that the denoiser gets for a prompt, [tokens, d]."""
    states = pipe.encode_prompt(prompt=[prompt], do_classifier_free_guidance=False)[0]
    return states[0]


@pytest.mark.parametrize("family", ["z_image", "lumina2"])
def test_a_words_place_is_where_its_letters_change_the_pipelines_states(family: str) -> None:
    """The text encoders read from left to right: the first state that differs is the word's."""
    pipe = tiny_family(family)
    tokenizer, tokens = adapter_of(pipe).words(pipe, 64)
    places = word_tokens(tokenizer, "a cat sat", "sat", limit=tokens)
    with torch.no_grad():
        one, two = (encoded_by_the_pipeline(pipe, text) for text in ("a cat sat", "a cat xyz"))
    shorter = min(len(one), len(two))
    changed = (one[:shorter] != two[:shorter]).any(dim=-1).nonzero().flatten().tolist()
    # The space before the word is the same in both prompts
    assert changed[0] in (places[0], places[0] + 1) and len(places) >= 3


def test_qwen_images_words_begin_after_the_34_tokens_that_the_pipeline_drops() -> None:
    pipe = tiny_family("qwen_image")
    tokenizer, tokens = adapter_of(pipe).words(pipe, None)
    assert tokens == 512
    # Letters are tokens and `cat` is one: a, space, cat.
    assert word_tokens(tokenizer, "a cat", "cat", limit=tokens) == [2]
    assert word_tokens(tokenizer, "a cat", "cat", limit=2) == []
    # The template's own words are not the prompt's.
    assert word_tokens(tokenizer, "a cat", "image", limit=tokens) == []
    _, mask = pipe._get_qwen_prompt_embeds(["a cat", "a"])
    assert mask.sum(dim=1).tolist() == [8, 6]  # with <|im_end|> \n <|im_start|> assistant \n
    assert [len(ids) for ids in tokenizer(["a cat", "a"]).input_ids] == [8, 6]
