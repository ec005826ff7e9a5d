"""Outputs of text encoders' layers for prompts, in a pipeline of every family."""

from typing import Any

import pytest
import torch

from diffusae.backbone.text_layers import list_text_layers
from diffusae.capture.text import capture_text, lengths_of
from tiny_families import T5_TOKENS, USUAL, tiny_family
from tiny_pipeline import TOKENS

PROMPTS = ["a cat", "dogs", ""]


@pytest.fixture(scope="module", params=USUAL)
def pipe(request: pytest.FixtureRequest) -> Any:
    return tiny_family(request.param)


def test_every_layer_gives_what_its_encoder_computes_for_the_tokens_it_is_given(pipe: Any) -> None:
    layers = list_text_layers(pipe, text_tokens=T5_TOKENS)
    encoded = capture_text(pipe, layers, PROMPTS, text_tokens=T5_TOKENS)
    assert list(encoded) == list(layers)
    for name, layer in layers.items():
        seen, encoder = encoded[name], getattr(pipe, layer.encoder)
        clip = "layers" in layer.path
        assert seen.outputs.shape == (3, layer.tokens, layer.d_in)
        assert layer.tokens == (TOKENS if clip else T5_TOKENS)
        masked = type(pipe).__name__.startswith("PixArt")  # whose T5 does not look at padding
        mask = (
            {"attention_mask": torch.arange(layer.tokens)[None] < seen.lengths[:, None]}
            if masked
            else {}
        )
        with torch.no_grad():
            states = encoder(seen.ids, output_hidden_states=True, **mask).hidden_states
        place = int(name.rpartition("_")[2])
        if clip or place == 0:  # T5 normalises the last of its states
            torch.testing.assert_close(seen.outputs, states[place + 1], rtol=1e-5, atol=1e-5)
        tokenizer = getattr(pipe, layer.tokenizer)
        for ids, length, text in zip(
            seen.ids.tolist(), seen.lengths.tolist(), PROMPTS, strict=True
        ):
            assert ids[:length] == tokenizer(text).input_ids  # padding is none of it
            assert all(
                token in (tokenizer.pad_token_id, tokenizer.eos_token_id) for token in ids[length:]
            )


def test_hooks_are_gone_afterwards_whatever_happens(
    pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = list_text_layers(pipe)
    modules = [
        module for layer in layers.values() for module in getattr(pipe, layer.encoder).modules()
    ]

    def hooks() -> list[int]:  # transformers may have some of its own
        return [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules]

    before = hooks()
    monkeypatch.setattr(pipe, "encode_prompt", lambda *_a, **_k: 1 / 0, raising=False)
    with pytest.raises(ZeroDivisionError):
        capture_text(pipe, layers, PROMPTS)
    assert hooks() == before


def test_a_prompt_ends_at_its_first_end_token_and_without_one_at_the_last() -> None:
    ids = torch.tensor([[0, 5, 1, 1, 1], [0, 5, 6, 7, 1], [0, 1, 1, 1, 1], [0, 5, 6, 7, 8]])
    assert lengths_of(ids, 1).tolist() == [3, 5, 2, 5]
