"""What is particular to Sana: the instruction before a prompt, 32 pixels an entry, and Sprint's
angles as times.
"""

import math
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from diffusae.backbone.families.table import adapter_of
from diffusae.backbone.latents import encode_pictures
from diffusae.backbone.load import load_pipeline
from diffusae.backbone.noising import is_flow_matching
from diffusae.backbone.rewritten import RewrittenPrompts
from diffusae.capture.attention import word_tokens
from diffusae.capture.conditions import conditions
from diffusae.capture.generate import generate
from diffusae.capture.hooks import capture_updates, hook_blocks
from diffusae.errors import UserError
from diffusae.interventions.denoising import denoising_errors
from diffusae.interventions.edits import Edit
from diffusae.interventions.steer import steer
from tiny_families import tiny_family
from tiny_families.sana import gemma_tokenizer, sana, sana_sprint
from tiny_pipeline import seeded

TOKENS = 24
SIZE: dict[str, Any] = {"height": 64, "width": 96}
PATH = "transformer_blocks.1"


@pytest.fixture(scope="module")
def pipe() -> Any:
    return seeded(sana, 0)


@pytest.fixture(scope="module")
def sprint() -> Any:
    return seeded(sana_sprint, 0)


@pytest.mark.parametrize("prompt", ["a cat and dogs", "  A CAT", "dogs and a cat"])
def test_words_are_found_where_the_pipeline_puts_them_after_its_instruction(
    pipe: Any, prompt: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pipeline's own selection of tokens, read at the places of a word, is that word."""
    ids: list[Tensor] = []
    encoder, forward = pipe.text_encoder, pipe.text_encoder.forward

    def spy(input_ids: Tensor, **options: Any) -> Any:
        ids.append(input_ids)
        return forward(input_ids, **options)

    monkeypatch.setattr(encoder, "forward", spy)
    generate(pipe, [prompt], [1], steps=1, guidance=1.0, text_tokens=TOKENS, decode=False, **SIZE)
    (whole,) = ids[0]
    seen = whole[[0, *range(len(whole) - TOKENS + 1, len(whole))]]  # as `encode_prompt` selects
    tokenizer, limit = adapter_of(pipe).words(pipe, TOKENS)
    places = word_tokens(tokenizer, prompt, "cat", limit=limit)
    assert limit == TOKENS
    assert pipe.tokenizer.convert_ids_to_tokens(seen[places].tolist()) == ["▁cat"]
    assert word_tokens(tokenizer, prompt, "bird", limit=limit) == []


def test_the_tokens_of_an_instruction_are_left_out_but_the_first_and_one() -> None:
    """`<bos>` d o g, and a prompt of 3 tokens: the denoiser sees `<bos>` g a ▁cat s of its 5."""
    tokenizer: Any = gemma_tokenizer()
    seen = RewrittenPrompts(tokenizer, "dog", 5)(
        "a cats", truncation=True, return_offsets_mapping=True
    )
    tokens = tokenizer.convert_ids_to_tokens(seen["input_ids"])
    assert tokens == ["<bos>", "g", "a", "▁cat", "s"]
    assert seen["offset_mapping"] == [(0, 0), (0, 0), (0, 1), (1, 5), (5, 6)]
    lengths = [len(ids) for ids in RewrittenPrompts(tokenizer, "dog", 5)(["a cats", "b"]).input_ids]
    assert lengths == [5, 3]


def test_words_of_pixart_are_those_of_the_prompt_in_lower_case() -> None:
    """T5's tokens of "CAT" would be other ones: its tiny vocabulary has no capitals."""
    pipe = tiny_family("pixart")
    tokenizer, limit = adapter_of(pipe).words(pipe, TOKENS)
    ids = pipe.tokenizer("a cat").input_ids
    places = word_tokens(tokenizer, " A CAT ", "CAT", limit=limit)
    assert [ids[place] for place in places] == pipe.tokenizer.convert_tokens_to_ids(["▁cat"])
    assert tokenizer(" A CAT ").input_ids == ids


def test_resolution_binning_records_the_grid_of_the_picture_that_is_made(pipe: Any) -> None:
    with capture_updates(pipe, {"mid": PATH}, [999.0], conditionings=["cond"]) as captured:
        made = pipe(
            ["a cat"], height=64, width=96, num_inference_steps=1, guidance_scale=1.0,
            output_type="latent", max_sequence_length=TOKENS,
        )[0]  # fmt: skip
    height, width = made.shape[-2:]
    assert (height, width) == (26, 38)  # 832 x 1216 px, of about a megapixel
    assert captured.grids == {"mid": (height, width)}
    assert captured.updates["mid", 999.0, "cond"].shape == (1, height * width, 48)


def test_its_solver_mixes_picture_and_noise_linearly_and_ddim_is_refused(
    pipe: Any, tmp_path: Any
) -> None:
    assert is_flow_matching(pipe.scheduler)
    pipe.save_pretrained(tmp_path)
    options: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}
    with pytest.raises(UserError, match=r"flow matching.*scheduler=keep"):
        load_pipeline(tmp_path, scheduler="ddim", **options)
    assert type(load_pipeline(tmp_path, scheduler="keep", **options)).__name__ == "SanaPipeline"


def test_pictures_are_encoded_by_its_autoencoder_32_pixels_an_entry(pipe: Any) -> None:
    pictures = torch.randint(0, 256, (3, 64, 96, 3), dtype=torch.uint8)
    latents = encode_pictures(pipe, pictures, batch_size=2)
    own = pipe.vae.encode(pictures.permute(0, 3, 1, 2) / 127.5 - 1).latent * 0.41407
    assert latents.shape == (3, 4, 2, 3)
    torch.testing.assert_close(latents, own, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_sprint_is_recorded_at_its_schedulers_angles_and_has_no_uncond(
    sprint: Any, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = adapter_of(sprint).schedule(sprint.scheduler, steps, 6).tolist()
    asked: dict[str, Any] = {"guidance": 4.5, "text_tokens": TOKENS, "steps": steps, **SIZE}
    deltas, stepped = [], []
    block, step = sprint.transformer.get_submodule(PATH), sprint.scheduler.step
    forward = block.forward

    def spy(before: Tensor, *args: Any) -> Tensor:
        after = forward(before, *args)
        deltas.append(after - before)
        return after

    def spied_step(output: Tensor, timestep: Tensor, *args: Any, **options: Any) -> Any:
        stepped.append(float(timestep[0]))
        return step(output, timestep, *args, **options)

    monkeypatch.setattr(block, "forward", spy)
    monkeypatch.setattr(sprint.scheduler, "step", spied_step)
    made = generate(
        sprint, ["a cat", "dogs"], [1, 2], hookpoints={"mid": PATH}, timesteps=times,
        conditionings=["cond"], **asked,
    )  # fmt: skip
    assert stepped == times and len(times) == steps
    for time, delta in zip(times, deltas, strict=True):
        assert torch.equal(made.updates["mid", time, "cond"], delta)
    assert made.grids == {"mid": (2, 3)} and adapter_of(sprint).layout == "none"
    with pytest.raises(UserError, match="no uncond branch"):
        generate(sprint, ["a cat"], [1], hookpoints={"mid": PATH}, timesteps=times, **asked)


def test_an_edit_of_sprint_acts_in_its_window_of_the_steps_that_run(sprint: Any) -> None:
    """Two steps have the times 1 and 0."""
    asked: dict[str, Any] = {"guidance": 4.5, "text_tokens": TOKENS, "steps": 2, **SIZE}
    times = adapter_of(sprint).schedule(sprint.scheduler, 2, 6).tolist()

    def made(edit: Edit | None = None) -> Any:
        with nullcontext() if edit is None else steer(sprint, [edit]):
            return generate(
                sprint, ["a cat", "dogs"], [1, 2], hookpoints={"mid": PATH}, timesteps=times,
                conditionings=["cond"], decode=False, **asked,
            ).updates  # fmt: skip

    plain, edited = made(), made(Edit(PATH, lambda updates, _grid: updates, window=(0.0, 0.0)))
    first, last = (("mid", time, "cond") for time in times)
    assert torch.equal(edited[first], plain[first])
    torch.testing.assert_close(edited[last], 2 * plain[last])


def test_sprints_latents_are_those_that_its_call_decodes(sprint: Any) -> None:
    made = generate(sprint, ["a cat"], [3], steps=2, guidance=4.5, text_tokens=TOKENS, **SIZE)
    latents = torch.randn(1, 4, 2, 3, generator=torch.Generator().manual_seed(3))
    options: dict[str, Any] = {"num_inference_steps": 2, "use_resolution_binning": False, **SIZE}
    options |= {"guidance_scale": 4.5, "max_sequence_length": TOKENS}
    own, picture = (
        sprint(
            ["a cat"], latents=latents, output_type=kind,
            generator=[_after_latents(3)], **options,
        )[0]
        for kind in ("latent", "np")
    )  # fmt: skip
    torch.testing.assert_close(made.latents, own)
    assert made.images is not None
    assert np.array_equal(made.images, (picture * 255).round().astype(np.uint8))


def _after_latents(seed: int) -> torch.Generator:
    """A picture's generator, from which its first latents were drawn."""
    generator = torch.Generator().manual_seed(seed)
    torch.randn(4, 2, 3, generator=generator)
    return generator


def test_one_pass_of_sprint_with_its_conditions_is_its_own_first_pass(sprint: Any) -> None:
    asked: dict[str, Any] = {"guidance": 4.5, "text_tokens": TOKENS, **SIZE}
    adapter = adapter_of(sprint)
    first = adapter.schedule(sprint.scheduler, 3, 6).tolist()[0]
    made = generate(
        sprint, ["a cat", "dogs"], [1, 2], steps=3, hookpoints={"mid": PATH}, timesteps=[first],
        conditionings=["cond"], decode=False, **asked,
    )  # fmt: skip
    given = conditions(sprint, ["a cat", "dogs"], "cond", **asked)
    latents = torch.stack(
        [torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)]
    )
    seen: list[Tensor] = []
    with torch.no_grad(), hook_blocks(sprint, {"mid": PATH}, lambda *look: seen.append(look[2])):
        adapter.predict(given, latents, first)
    torch.testing.assert_close(seen[0], made.updates["mid", first, "cond"], rtol=1e-4, atol=1e-5)


def test_sprints_denoiser_is_flow_matching_at_the_angles_share_of_noise(
    sprint: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At pi / 4 the share is a half: the input is (x_0 + noise) / 2, and a prediction of 0 has the
    error mean (noise - x_0)^2.
    """
    seen: list[tuple[Tensor, float]] = []

    def forward(hidden_states: Tensor, timestep: Tensor, **_: Any) -> tuple[Tensor]:
        seen.append((hidden_states, float(timestep[0])))
        return (torch.zeros_like(hidden_states),)

    monkeypatch.setattr(sprint.transformer, "forward", forward)
    latents, noise = torch.full((1, 4, 2, 3), 2.0), torch.full((1, 4, 2, 3), -4.0)
    given: dict[str, Any] = {"latents": latents, "noise": noise, "conditions": {}}
    (error,) = denoising_errors(sprint, None, timestep=math.pi / 4, **given)
    assert float(error) == 36.0
    (fed, time) = seen[0]
    torch.testing.assert_close(fed, torch.full_like(fed, -1.0))
    assert time == pytest.approx(0.5)
