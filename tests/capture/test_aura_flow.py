"""What is particular to AuraFlow: registers before the text, and a time between 0 and 1."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from diffusae.backbone.describe import describe
from diffusae.backbone.families.table import adapter_of, list_hookpoints
from diffusae.backbone.load import load_pipeline
from diffusae.backbone.schedule import RunningSchedule
from diffusae.backbone.text_layers import list_text_layers
from diffusae.capture.attention import capture_cross_attention, word_tokens
from diffusae.capture.generate import generate
from diffusae.capture.text import capture_text
from diffusae.errors import UserError
from tiny_families.aura_flow import REGISTERS, aura_flow
from tiny_pipeline import seeded

TOKENS = 24


@pytest.fixture(scope="module")
def pipe() -> Any:
    return seeded(aura_flow, 0)


def test_the_texts_tokens_are_the_registers_and_those_of_the_prompt(pipe: Any) -> None:
    given = {"encoder_hidden_states": torch.zeros(4, TOKENS, 32)}
    assert adapter_of(pipe).text_lengths(given, 4) == [REGISTERS + TOKENS] * 4


def test_maps_hold_the_tokens_of_the_prompt_without_the_registers(pipe: Any) -> None:
    """Against the layer's own projections: the softmax over the keys behind the registers."""
    joint = pipe.transformer.joint_transformer_blocks[1].attn
    seen: list[dict[str, Any]] = []
    handle = joint.register_forward_pre_hook(
        lambda _layer, _args, given: seen.append(given), with_kwargs=True
    )
    time = adapter_of(pipe).schedule(pipe.scheduler, 2, 24).tolist()[1]
    with capture_cross_attention(pipe, [time]) as captured:
        generate(
            pipe, ["a cat", "dogs"], [1, 2], steps=2, guidance=5.0, text_tokens=TOKENS,
            height=64, width=96, decode=False,
        )  # fmt: skip
    handle.remove()
    maps = captured.maps["joint_transformer_blocks.1", time]
    assert maps.shape == (2, 24, TOKENS)
    picture, words = (seen[1][name][2:] for name in ("hidden_states", "encoder_hidden_states"))
    with torch.no_grad():
        query = joint.norm_q(joint.to_q(picture).unflatten(-1, (2, 16)))
        key = joint.norm_added_k(joint.add_k_proj(words[:, REGISTERS:]).unflatten(-1, (2, 16)))
    scores = torch.einsum("rphd,rthd->rhpt", query, key) / 4
    torch.testing.assert_close(maps, scores.softmax(-1).mean(1), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_fifty_steps_stay_apart_in_half_precision(pipe: Any, dtype: torch.dtype) -> None:
    """Each rounded thousandth that the pipeline gives its denoiser belongs to one timestep."""
    adapter = adapter_of(pipe)
    pipe.scheduler.set_timesteps(50)
    schedule = RunningSchedule(pipe)
    for timestep in pipe.scheduler.timesteps:
        argument = torch.tensor([timestep / 1000]).expand(4).to(dtype)
        now, error = adapter.timestep(pipe, {"timestep": argument}, running=True)
        assert schedule.own(now, error) == timestep.item()


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_word_is_found_where_the_padded_prompt_has_it(
    pipe: Any, side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipe, "tokenizer", copy.deepcopy(pipe.tokenizer))
    pipe.tokenizer.padding_side = side
    tokenizer, limit = adapter_of(pipe).words(pipe, TOKENS)
    assert limit == TOKENS
    padded = pipe.tokenizer("a cat", padding="max_length", max_length=TOKENS, truncation=True)
    cat = pipe.tokenizer.convert_tokens_to_ids("▁cat")
    expected = [place for place, token in enumerate(padded["input_ids"]) if token == cat]
    assert word_tokens(tokenizer, "a cat", "cat", limit=limit) == expected and len(expected) == 1
    assert len(tokenizer("a cat")["input_ids"]) < TOKENS, "the prompt's own length, to count cuts"


def test_layers_of_a_text_encoder_are_captured_if_prompts_are_padded_on_the_right(
    pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = list_text_layers(pipe, text_tokens=TOKENS)
    assert [(name, layer.d_in, layer.tokens) for name, layer in layers.items()] == [
        ("text_0", 32, TOKENS),
        ("text_1", 32, TOKENS),
    ]
    with pytest.raises(UserError, match="pads prompts on the left"):
        capture_text(pipe, layers, ["a cat", "dogs"], text_tokens=TOKENS)
    monkeypatch.setattr(pipe, "tokenizer", copy.deepcopy(pipe.tokenizer))
    pipe.tokenizer.padding_side = "right"
    made = capture_text(pipe, layers, ["a cat", "dogs"], text_tokens=TOKENS)
    assert made["text_1"].outputs.shape == (2, TOKENS, 32)


def test_a_folder_is_described_and_makes_the_same_latents(pipe: Any, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path)
    described = describe(tmp_path, text_layers=True)
    assert list(described.hookpoints) == list(list_hookpoints(pipe.transformer))
    assert (described.tokens, described.latent_scale, described.layout) == (256, 8, "one_batch")
    assert list(described.text_layers) == ["text_0", "text_1"]
    loaded = load_pipeline(tmp_path, dtype=torch.float32, device="cpu", scheduler="keep")
    asked: dict[str, Any] = {"steps": 2, "guidance": 5.0, "text_tokens": TOKENS, "decode": False}
    own, again = (
        generate(one, ["a cat"], [1], height=64, width=96, **asked) for one in (pipe, loaded)
    )
    assert torch.equal(own.latents, again.latents)
