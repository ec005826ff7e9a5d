from __future__ import annotations

import copy
from typing import ClassVar

import pytest
import torch

from diffusae.backbone.families.table import list_hookpoints
from diffusae.capture import attention as attention_module
from diffusae.capture.attention import (
    CapturedAttention,
    capture_cross_attention,
    cross_attention,
    mean_map,
    word_spans,
    word_tokens,
)
from diffusae.capture.hooks import capture_updates
from diffusae.capture.offload import Offload
from diffusae.errors import UserError
from tiny_pipeline import GRIDS, HOOKPOINTS, TOKENS, tiny_tokenizer


def _run(pipe, prompts=("a cat", "dogs"), guidance=5.0, **options) -> torch.Tensor:
    latents = torch.randn(len(prompts), 4, 8, 8, generator=torch.Generator().manual_seed(1))
    options = {"latents": latents, "output_type": "latent"} | options
    return pipe(list(prompts), num_inference_steps=3, guidance_scale=guidance, **options).images


def _hooks(pipe) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in pipe.unet.modules())


def test_probabilities_sum_to_one_over_the_tokens(pipe) -> None:
    with capture_cross_attention(pipe, [667, 1], hookpoints=HOOKPOINTS) as captured:
        _run(pipe)
    assert captured.grids == GRIDS
    assert set(captured.maps) == {(block, t) for block in HOOKPOINTS for t in (667, 1)}
    for (block, _), attention in captured.maps.items():
        assert attention.shape == (2, GRIDS[block][0] * GRIDS[block][1], TOKENS)
        assert attention.dtype == torch.float32 and attention.min() >= 0
        torch.testing.assert_close(attention.sum(-1), torch.ones(attention.shape[:2]))


def test_all_blocks_are_recorded_when_none_is_named(pipe) -> None:
    with capture_cross_attention(pipe, [1]) as captured:
        _run(pipe)
    assert set(captured.maps) == {(path, 1) for path in list_hookpoints(pipe.unet)}


def test_pictures_and_processors_stay_as_they_are(pipe) -> None:
    without = _run(pipe)
    processors = dict(pipe.unet.attn_processors)
    with capture_cross_attention(pipe, [667, 334, 1]):
        assert torch.equal(_run(pipe), without)
        assert pipe.unet.attn_processors == processors
    assert _hooks(pipe) == 0


def test_hooks_are_gone_after_an_exception(pipe) -> None:
    def fail(*_):
        raise KeyError("on purpose")

    with pytest.raises(KeyError, match="on purpose"), capture_cross_attention(pipe, [1]):
        _run(pipe, callback_on_step_end=fail)
    assert _hooks(pipe) == 0


@torch.no_grad()
def test_the_probabilities_are_the_ones_the_stock_layer_attends_with(pipe) -> None:
    """The layer hides its probabilities, but its output is the values averaged by them and
    projected."""
    layer = pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn2
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(2, 16, layer.to_q.in_features, generator=generator)
    words = torch.randn(2, TOKENS, 32, generator=generator)
    probabilities = cross_attention(layer, queries, words)
    # Far from uniform, which averaging any values would not tell apart
    assert probabilities.std() > 0.05
    values = layer.to_v(words).unflatten(-1, (layer.heads, -1)).transpose(1, 2)
    output = layer.to_out[0]((probabilities @ values).transpose(1, 2).flatten(2))
    torch.testing.assert_close(
        output, layer(queries, encoder_hidden_states=words), rtol=1e-4, atol=1e-4
    )


@torch.no_grad()
def test_masked_tokens_get_no_attention(pipe) -> None:
    layer = pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn2
    queries, words = torch.randn(2, 16, layer.to_q.in_features), torch.randn(2, 4, 32)
    mask = torch.tensor([[[0.0, 0.0, -1e4, -1e4]], [[0.0, 0.0, 0.0, -1e4]]])
    probabilities = cross_attention(layer, queries, words, mask=mask)
    assert probabilities[0, ..., 2:].max() == 0 and probabilities[1, ..., 3].max() == 0
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(2, layer.heads, 16))


def test_the_conditional_half_is_what_is_recorded(pipe) -> None:
    maps = {}
    for name, prompts, guidance in (
        ("guided", ("a cat", "dogs"), 5.0),
        ("cond", ("a cat", "dogs"), 1.0),
        ("uncond", ("", ""), 1.0),
    ):
        with capture_cross_attention(
            pipe, [667], hookpoints={"mid": HOOKPOINTS["mid"]}
        ) as captured:
            _run(pipe, prompts, guidance)
        maps[name] = captured.maps["mid", 667]
    torch.testing.assert_close(maps["guided"], maps["cond"], rtol=1e-4, atol=1e-5)
    assert (maps["guided"] - maps["uncond"]).abs().max() > 1e-2


def test_several_calls_follow_one_another(pipe) -> None:
    with capture_cross_attention(pipe, [334], hookpoints={"mid": HOOKPOINTS["mid"]}) as both:
        _run(pipe, ("a cat",))
        _run(pipe, ("dogs",))
    with capture_cross_attention(pipe, [334], hookpoints={"mid": HOOKPOINTS["mid"]}) as second:
        _run(pipe, ("dogs",))
    assert torch.equal(both.maps["mid", 334][1:], second.maps["mid", 334])


class Counted(Offload):
    """Keeps what happens, in order."""

    log: ClassVar[list[str]] = []

    def __call__(self, tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        self.log.append("copy")
        return super().__call__(tensor, dtype)

    def wait(self) -> None:
        self.log.append("wait")
        super().wait()


@torch.no_grad()
def test_a_block_of_several_layers_gives_their_mean_in_one_copy_a_step(pipe, monkeypatch) -> None:
    monkeypatch.setattr(attention_module, "Offload", Counted)
    monkeypatch.setattr(Counted, "log", [])
    layers = pipe.unet.mid_block.attentions[0].transformer_blocks
    layers.append(copy.deepcopy(layers[0]))
    layers[1].attn2.to_k.weight.mul_(-1.0)
    inputs = []
    for layer in layers:
        layer.attn2.register_forward_hook(
            lambda _module, args, kwargs, _output: inputs.append(
                (args[0], kwargs["encoder_hidden_states"])
            ),
            with_kwargs=True,
        )
    try:
        with capture_cross_attention(
            pipe, [667, 334], hookpoints={"mid": HOOKPOINTS["mid"]}
        ) as captured:
            _run(pipe)
        assert Counted.log == ["copy", "copy", "wait"]
        first, second = (
            cross_attention(layer.attn2, queries[2:], words[2:]).mean(dim=1)
            for layer, (queries, words) in zip(layers, inputs[:2], strict=True)
        )
    finally:
        del layers[1]
        layers[0].attn2._forward_hooks.clear()
        layers[0].attn2._forward_hooks_with_kwargs.clear()
    assert (first - second).abs().max() > 1e-2
    torch.testing.assert_close(captured.maps["mid", 667], (first + second) / 2)


def test_a_block_without_cross_attention_is_refused(pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = pipe.unet.mid_block.attentions[0].transformer_blocks[0]
    monkeypatch.setitem(layer._modules, "attn2", None)
    refused = pytest.raises(UserError, match=r"mid_block\.attentions\.0 has no cross-attention")
    with refused, capture_cross_attention(pipe, [1], hookpoints={"mid": HOOKPOINTS["mid"]}):
        pass
    assert _hooks(pipe) == 0


def test_updates_and_attention_are_recorded_in_one_run(pipe) -> None:
    with (
        capture_cross_attention(pipe, [1], hookpoints=HOOKPOINTS) as attention,
        capture_updates(pipe, HOOKPOINTS, [1]) as updates,
    ):
        _run(pipe)
    assert attention.grids == updates.grids


def test_a_timestep_that_never_came_is_an_error(pipe) -> None:
    with (
        pytest.raises(UserError, match="timestep 500 never came"),
        capture_cross_attention(pipe, [500]),
    ):
        _run(pipe)
    with pytest.raises(UserError, match="no timestep"), capture_cross_attention(pipe, []):
        pass


@pytest.mark.parametrize(
    ("prompt", "word", "tokens"),
    [
        ("a cat", "cat", [2]),
        ("a cat", "Cat", [2]),
        ("two cats", "cats", [4, 5, 6]),  # start, t, w, o, then ca, t, s
        ("cat or bobcat", "cat", [1]),
        ("cat cat", "cat", [1, 2]),
        ("a dog  cat", "dog cat", [2, 3, 4, 5]),
        ("cats", "cat", []),
        ("a dog", "cat", []),
        ("a cat", "", []),
        ("ab cdefghijklmn cat", "cat", []),  # cut off: 16 tokens hold start, 14 letters and end
    ],
)
def test_a_word_is_found_as_a_whole_at_all_its_places(
    prompt: str, word: str, tokens: list[int]
) -> None:
    assert word_tokens(tiny_tokenizer(), prompt, word) == tokens


def test_token_positions_are_those_of_the_prompt_as_the_pipeline_encodes_it(pipe) -> None:
    ids = pipe.tokenizer(
        "two cats", padding="max_length", max_length=TOKENS, truncation=True
    ).input_ids
    columns = word_tokens(pipe.tokenizer, "two cats", "cats")
    assert pipe.tokenizer.convert_ids_to_tokens([ids[column] for column in columns]) == [
        "ca",
        "t",
        "s</w>",
    ]


def test_a_tokenizer_without_offsets_is_refused() -> None:
    with pytest.raises(UserError, match="no character offsets"):
        word_tokens(object(), "a cat", "cat")


def test_the_mean_map_brings_every_block_of_that_timestep_to_one_grid() -> None:
    """A 1x2 block beside a 2x4 one; bilinear doubling of (0, 4) gives 0, 1, 3, 4 by hand."""
    coarse = torch.tensor([[[0.0], [4.0]]])
    fine = torch.full((1, 8, 1), 2.0)
    captured = CapturedAttention(
        maps={("coarse", 1.0): coarse, ("fine", 1.0): fine, ("fine", 5.0): fine + 100},
        grids={"coarse": (1, 2), "fine": (2, 4)},
    )
    mean = mean_map(captured, 1.0, grid=(2, 4))
    assert mean.shape == (1, 8, 1)
    assert mean.flatten().tolist() == [1.0, 1.5, 2.5, 3.0] * 2
    with pytest.raises(UserError, match="no attention was recorded at timestep 3"):
        mean_map(captured, 3.0, grid=(2, 4))


@pytest.mark.parametrize(
    ("word", "text", "places"),
    [
        ("猫", "一只猫坐着", [(2, 3)]),
        ("ネコ", "白いネコとネコ", [(2, 4), (5, 7)]),
        ("cat", "一只cat在cats里", [(2, 5)]),
        ("cat", "a Cat, cats and a tomcat", [(2, 5)]),
        ("red  fish", "a red fish", [(2, 10)]),
        ("แมว", "แมวดำ", [(0, 3)]),
        ("", "a cat", []),
    ],
)
def test_words_are_found_where_no_space_parts_them(
    word: str, text: str, places: list[tuple[int, int]]
) -> None:
    assert word_spans(word, text) == places


@pytest.mark.parametrize("pictures", [1, 2])
def test_an_ip_adapters_tokens_are_no_text(pipe, pictures: int) -> None:
    """It passes (text, pictures' tokens) to cross-attention. The probabilities are over the
    text."""
    attention = pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn2
    words = torch.randn(2 * pictures, 16, 32)
    handle = attention.register_forward_pre_hook(
        lambda _m, args, kwargs: (
            args,
            kwargs | {"encoder_hidden_states": (words, [torch.randn(1, 1, 4, 32)])},
        ),
        with_kwargs=True,
    )
    own = attention.forward
    attention.forward = lambda x, encoder_hidden_states, **kwargs: own(
        x, encoder_hidden_states[0], **kwargs
    )
    try:
        with (
            torch.no_grad(),
            capture_cross_attention(
                pipe, [5], hookpoints={"mid": "mid_block.attentions.0"}, layout=("uncond", "cond")
            ) as captured,
        ):
            pipe.unet(torch.randn(2 * pictures, 4, 8, 8), 5, words)
    finally:
        handle.remove()
        del attention.forward
    assert captured.maps["mid", 5].shape == (pictures, 16, 16)
    torch.testing.assert_close(captured.maps["mid", 5].sum(-1), torch.ones(pictures, 16))
