"""Latents over the tokens of a text."""

from typing import Any

import numpy as np
import pytest
import torch

from diffusae.errors import UserError
from diffusae.exploring.token_maps import TokenMaps, picture_of, places_of, spelled

CLIP = ["<|startoftext|>", "two</w>", "cat", "s</w>", "and</w>", "cat</w>", "<|endoftext|>"]
QWEN = ["<|im_start|>", "user", "Ċ", "cat", "Ġand", "Ġcat", "s", "<|im_end|>", "Ċ"]
T5 = ["▁two", "▁", "c", "at", "s", "▁and", "▁cat", "</s>"]


@pytest.mark.parametrize(
    ("word", "tokens", "places"),
    [
        ("cats", CLIP, [2, 3]),
        ("cat", CLIP, [5]),
        ("Two", CLIP, [1]),
        ("cats", T5, [2, 3, 4]),
        ("cat", T5, [6]),
        ("and cat", T5, [5, 6]),
        ("dog", T5, []),
        ("cat", QWEN, [3]),
        ("cats", QWEN, [5, 6]),
        ("at", T5, []),
    ],
)
def test_a_words_tokens_are_those_of_the_whole_word(word, tokens, places) -> None:
    assert places_of(word, tokens) == places


def test_tokens_of_two_encoders_after_each_other_are_both_searched() -> None:
    assert places_of("cat", [*CLIP, *T5]) == [5, len(CLIP) + 6]


def test_a_token_is_spelled_without_its_marks() -> None:
    assert [spelled(token) for token in ("▁cat", "cat</w>", "Ġcat", "s")] == ["cat"] * 3 + ["s"]


def maps() -> TokenMaps:
    cell: Any = type("Cell", (), {"name": "words-t1.00-cond-k4"})()
    values = torch.tensor([[9.0, 9.0, 9.0, 9.0], [0.0, 0.0, 2.0, 0.0], [0.0, 1.0, 0.0, 0.0]])
    picture = np.zeros((64, 96, 3), np.uint8)
    return TokenMaps(cell, "a cat", picture, ["<s>", "▁a", "▁cat", "</s>"], [7, 5, 6], values)


def test_the_top_latents_of_a_word_are_those_that_tell_it_from_the_other_tokens() -> None:
    assert maps().top(2).latents == [7, 5]
    assert maps().top(2, word="cat").latents == [5, 7]  # 2 - 0, then 9 - 9
    assert maps().top(1, word="a").latents == [6]
    with pytest.raises(UserError, match="have no word 'dog'"):
        maps().top(1, word="dog")


def test_the_table_has_the_tokens_where_a_latent_is_active() -> None:
    table = maps().top(1, word="cat").table()
    assert table.to_dict("records") == [{"latent": 5, "place": 2, "token": "▁cat", "value": 2.0}]


def test_the_drawn_tokens_are_as_large_as_the_picture_and_brightest_at_the_largest_value() -> None:
    drawn = picture_of(["one", "two"], torch.tensor([0.0, 3.0]), (40, 400))
    assert drawn.shape == (40, 400, 3) and maps().drawn().shape == (64, 96, 3)
    first, second = drawn[4, 4].astype(int), drawn[4, 72].astype(int)
    assert second.sum() > first.sum()
