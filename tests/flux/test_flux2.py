"""What FLUX.2 does otherwise: its guidance, the scale of its latents, its steps and its prompts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from torch import Tensor

from diffusae.backbone.describe import describe
from diffusae.backbone.families.table import adapter_of
from diffusae.backbone.latents import encode_pictures
from diffusae.backbone.load import load_pipeline
from diffusae.backbone.placement import moved_steps
from diffusae.backbone.text_layers import list_text_layers
from diffusae.capture.attention import word_tokens
from diffusae.capture.generate import generate
from diffusae.capture.previews import decoded, watched_steps
from diffusae.capture.text import capture_text
from diffusae.collecting.truncation import count_truncated
from diffusae.errors import UserError
from diffusae.prompts.prompt_set import Prompt
from flux.given_pictures import BLOCKS, PROMPTS, SIZE, STEPS, call
from tiny_families.flux2 import TOKENS, dev, klein
from tiny_pipeline import seeded

ASKED: dict[str, Any] = {"steps": STEPS, "guidance": 4.0, "text_tokens": TOKENS, **SIZE}


@pytest.fixture(scope="module")
def made_dev() -> Any:
    return seeded(dev, 0)


@pytest.fixture(scope="module")
def made_klein() -> Any:
    return seeded(klein, 0)


@pytest.mark.parametrize("make", [dev, lambda: klein(is_distilled=True)])
def test_a_distilled_model_has_no_uncond_branch_whatever_the_guidance(
    make: Callable[[], Any],
) -> None:
    pipe = seeded(make, 0)
    times = adapter_of(pipe).schedule(pipe.scheduler, STEPS, 12).tolist()
    recorded: dict[str, Any] = {"hookpoints": BLOCKS, "timesteps": times, "decode": False}
    steps: list[int] = []
    with pytest.raises(UserError, match="no uncond branch"):
        generate(pipe, PROMPTS, [1, 2], progress=steps.append, **ASKED, **recorded)
    assert steps == []
    made = generate(pipe, PROMPTS, [1, 2], conditionings=["cond"], **ASKED, **recorded)
    assert {branch for *_, branch in made.updates} == {"cond"}


def test_guidance_is_an_input_of_dev(made_dev: Any) -> None:

    def latents(scale: float) -> Tensor:
        asked: dict[str, Any] = {**ASKED, "guidance": scale}
        return generate(made_dev, PROMPTS, [1, 2], decode=False, **asked).latents

    one, other = latents(1.0), latents(8.0)
    assert not torch.allclose(one, other)


def test_generate_makes_the_picture_that_dev_itself_makes(made_dev: Any) -> None:
    """From its own latents, which it draws as pictures of 4 times the channels."""
    made = generate(made_dev, PROMPTS, [1, 2], **ASKED)
    latents = torch.stack(
        [torch.randn(4, 4, 12, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)]
    )
    given = {"latents": made_dev._patchify_latents(latents), "guidance_scale": 4.0}
    given |= {"num_inference_steps": STEPS, "max_sequence_length": TOKENS, "output_type": "np"}
    own = made_dev(prompt=PROMPTS, **given, **SIZE).images
    assert made.images is not None
    assert np.array_equal(made.images, (own * 255).round().astype(np.uint8))


def test_latents_of_pictures_are_normalised_as_the_pipeline_does(made_klein: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (3, 32, 96, 3), dtype=torch.uint8, generator=generator)
    pixels = pictures.permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        expected = made_klein._encode_vae_image(pixels, generator=generator)
    latents = encode_pictures(made_klein, pictures, batch_size=2)
    assert latents.shape == (3, 4, 4, 12)
    torch.testing.assert_close(made_klein._patchify_latents(latents), expected)


def test_the_last_preview_is_the_picture(made_klein: Any) -> None:
    shown: list[np.ndarray] = []
    with watched_steps(
        made_klein, lambda _, clean: shown.append(decoded(made_klein, clean(), **SIZE))
    ):
        made = generate(made_klein, PROMPTS, [1, 2], **ASKED).images
    assert made is not None and len(shown) == STEPS
    assert np.abs(shown[-1].astype(int) - made.astype(int)).max() <= 1


def test_steps_that_are_moved_are_those_of_the_pipeline() -> None:
    """FLUX.2 works its shift out by a rule of its own, not by the scheduler's numbers."""
    pipe = seeded(klein, 0)
    own = adapter_of(pipe).schedule(pipe.scheduler, STEPS, 12).double() / 1000
    pipe.scheduler = moved_steps(pipe.scheduler, 2.0)
    assert isinstance(pipe.scheduler, FlowMatchEulerDiscreteScheduler)
    planned = adapter_of(pipe).schedule(pipe.scheduler, STEPS, 12)
    call(pipe, max_sequence_length=TOKENS)
    timesteps: Any = pipe.scheduler.timesteps
    assert planned.tolist() == timesteps.tolist()
    moved = planned.double() / 1000
    log_snr = [2 * torch.log((1 - sigma) / sigma)[1:] for sigma in (own, moved)]
    torch.testing.assert_close(
        log_snr[1] - log_snr[0], torch.full((2,), 2.0).double(), atol=1e-3, rtol=0
    )


@pytest.mark.parametrize("distilled", [True, False])
def test_a_folder_of_klein_says_whether_it_is_distilled(tmp_path: Path, distilled: bool) -> None:
    seeded(lambda: klein(is_distilled=distilled), 0).save_pretrained(tmp_path)
    described = describe(tmp_path, text_layers=True)
    assert described.layout == ("none" if distilled else "guided_passes")
    assert (described.tokens, described.scale, len(described.text_layers)) == (512, 16, 28)


def test_a_folder_of_dev_is_described_and_loaded(tmp_path: Path) -> None:
    seeded(dev, 0).save_pretrained(tmp_path)
    described = describe(tmp_path, text_tokens=TOKENS, text_layers=True)
    assert (described.layout, described.tokens, described.reads_text) == ("none", TOKENS, True)
    assert list(described.text_layers) == [f"text_{place}" for place in range(31)]
    loaded: Any = load_pipeline(tmp_path, dtype=torch.float32, device="cpu", scheduler="keep")
    own, other = (
        generate(pipe, PROMPTS, [1, 2], decode=False, **ASKED).latents
        for pipe in (seeded(dev, 0), loaded)
    )
    torch.testing.assert_close(own, other)
    assert adapter_of(loaded).layout == "none"


@pytest.mark.parametrize("make", [dev, klein])
def test_a_words_tokens_are_where_the_encoder_reads_it(make: Callable[[], Any]) -> None:
    """Inside a chat template, and after the padding where that is on the left (dev)."""
    pipe = seeded(make, 0)
    ids: list[Tensor] = []
    handle = pipe.text_encoder.register_forward_pre_hook(
        lambda _module, _args, kwargs: ids.append(kwargs["input_ids"]), with_kwargs=True
    )
    prompt = "user cats sat: a cat"
    pipe.encode_prompt(prompt=[prompt], max_sequence_length=TOKENS)
    handle.remove()
    tokenizer, limit = adapter_of(pipe).words(pipe, TOKENS)
    assert limit == TOKENS == ids[0].shape[1]
    read = pipe.tokenizer.convert_ids_to_tokens(ids[0][0].tolist())

    def found(word: str) -> list[str]:
        return [read[place] for place in word_tokens(tokenizer, prompt, word, limit=limit)]

    assert found("cat") == ["Ġcat"]
    assert found("user") == ["u", "s", "e", "r"]
    assert found("sat") == ["s", "a", "t"]
    assert found("dog") == [] and found("assistant") == []
    assert word_tokens(tokenizer, prompt, "cat", limit=limit)[0] > 10


def test_captions_are_cut_by_the_length_of_the_whole_text(made_klein: Any) -> None:
    tokenizer, limit = adapter_of(made_klein).words(made_klein, TOKENS)
    rest = limit - len(tokenizer("").input_ids)
    prompts = [
        Prompt(image_id=str(count), text="a" * count, seed=0, split="train")
        for count in (rest, rest + 1)
    ]
    assert count_truncated(tokenizer, limit, prompts) == 1


def test_a_negative_prompt_is_refused(made_klein: Any) -> None:
    with pytest.raises(UserError, match="Flux2KleinPipeline takes no negative prompt"):
        generate(made_klein, PROMPTS, [1, 2], negative_prompt="dogs", **ASKED)


def test_layers_of_qwen3_are_read_as_the_pipeline_reads_them(made_klein: Any) -> None:
    """Hidden state 9 is the output of layer 8."""
    known = list_text_layers(made_klein, text_tokens=TOKENS)
    assert list(known) == [f"text_{place}" for place in range(28)]
    assert (known["text_8"].d_in, known["text_8"].tokens) == (16, TOKENS)
    layers = {name: known[name] for name in ("text_8", "text_17", "text_26")}
    seen = capture_text(made_klein, layers, PROMPTS, text_tokens=TOKENS)
    with torch.no_grad():
        embeds, _ = made_klein.encode_prompt(prompt=PROMPTS, max_sequence_length=TOKENS)
    for place, name in enumerate(layers):
        expected = embeds[..., 16 * place : 16 * (place + 1)]
        torch.testing.assert_close(seen[name].outputs, expected)
    own = [made_klein.tokenizer(text).input_ids for text in PROMPTS]
    assert all(length > len(ids) for length, ids in zip(seen["text_8"].lengths, own, strict=True))


def test_layers_behind_padding_on_the_left_are_refused(made_dev: Any) -> None:
    known = list_text_layers(made_dev, text_tokens=TOKENS)
    with pytest.raises(UserError, match="pads prompts on the left"):
        capture_text(made_dev, {"text_9": known["text_9"]}, PROMPTS, text_tokens=TOKENS)
