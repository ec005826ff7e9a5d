"""Families whose blocks hold picture and text in one sequence, or whose rows do not lie as usual:
Lumina 2, Z-Image, HiDream. The picture's own tokens are those that the denoiser itself unpacks.
"""

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor

from diffusae.backbone.families.table import adapter_of
from diffusae.capture.conditions import conditions
from diffusae.capture.generate import generate
from diffusae.capture.hooks import capture_updates
from diffusae.errors import UserError
from diffusae.interventions.edits import Edit
from diffusae.interventions.steer import steer
from tiny_families import FAMILIES, tiny_family

PROMPTS, SEEDS = ["a cat", "two dogs sit on a mat"], [1, 2]
SIZES = {"lumina2": (32, 96), "z_image": (96, 112), "hidream": (32, 96)}
"""Z-Image: 42 tokens, which are padded to 64. HiDream: 12, which are padded to 16."""


def times(pipe: Any, height: int, width: int) -> list[float]:
    adapter = adapter_of(pipe)
    unit = pipe.vae_scale_factor * adapter.patch
    return adapter.schedule(pipe.scheduler, 3, (height // unit) * (width // unit)).tolist()


@pytest.mark.parametrize("name", SIZES)
def test_the_last_blocks_output_at_a_position_is_what_becomes_its_square_of_the_picture(
    name: str,
) -> None:
    """A large change of one position of the last block changes the denoiser's output in that square
    of 2 x 2 entries alone, in both rows, whose captions have different lengths."""
    pipe, (height, width) = tiny_family(name), SIZES[name]
    path = FAMILIES[name].blocks["up"][0]
    rows, columns = height // 16, width // 16
    outputs: list[Any] = []
    handle = pipe.transformer.register_forward_hook(lambda _m, _a, out: outputs.append(out[0]))
    asked = {**FAMILIES[name].asked, "height": height, "width": width, "decode": False}

    def change(updates: Tensor, grid: tuple[int, ...]) -> Tensor:
        assert grid == (rows, columns)
        added = torch.zeros_like(updates)
        added.unflatten(1, grid)[:, rows - 1, 1] = 50.0 * torch.arange(updates.shape[-1])
        return added

    generate(pipe, PROMPTS, SEEDS, steps=3, **asked)
    plain, outputs[:] = outputs[0], []
    with steer(pipe, [Edit(path, change, window=(1.0, 0.9), conditionings=("cond",))]):
        generate(pipe, PROMPTS, SEEDS, steps=3, **asked)
    handle.remove()
    for row in range(2):
        # Rows of `cond`: the first in Lumina 2 (a pass of its own) and Z-Image, the last in HiDream
        place = row + (2 if name == "hidream" else 0)
        moved = (outputs[0][place] - plain[place]).abs().flatten(0, -3).amax(dim=0) > 1e-3
        expected = torch.zeros(2 * rows, 2 * columns, dtype=torch.bool)
        expected[-2:, 2:4] = True
        assert torch.equal(moved, expected)


@pytest.mark.parametrize(("name", "block"), [("lumina2", "hidden_states"), ("z_image", "x")])
def test_the_pictures_own_blocks_are_captured_and_the_captions_are_refused(
    name: str, block: str
) -> None:
    pipe, (height, width) = tiny_family(name), SIZES[name]
    module, seen = pipe.transformer.noise_refiner[1], list[Tensor]()

    def look(_m: Any, args: tuple[Any, ...], kwargs: Any, output: Tensor) -> None:
        names = inspect.signature(module.forward).parameters
        given = dict(zip(names, args, strict=False)) | kwargs
        count = (height // 16) * (width // 16)
        seen.append((output - given[block])[:, :count])

    handle = module.register_forward_hook(look, with_kwargs=True)
    asked = {**FAMILIES[name].asked, "height": height, "width": width, "decode": False}
    at = times(pipe, height, width)[1]
    made = generate(
        pipe,
        PROMPTS,
        SEEDS,
        steps=3,
        hookpoints={"own": "noise_refiner.1"},
        timesteps=[at],
        **asked,
    )
    handle.remove()
    passes = 2 if name == "lumina2" else 1
    assert torch.equal(made.updates["own", at, "cond"], seen[passes][:2])
    with (
        pytest.raises(UserError, match=r"context_refiner.0 .* holds no tokens of the picture"),
        capture_updates(pipe, {"text": "context_refiner.0"}, [at]),
    ):
        pass


@pytest.mark.parametrize(
    ("name", "options", "guided"),
    [("lumina2", {"cfg_trunc_ratio": 0.4}, 1), ("z_image", {"cfg_truncation": 0.2}, 2)],
)
def test_steps_whose_guidance_is_truncated_have_no_uncond(
    name: str, options: dict[str, float], guided: int
) -> None:
    """Lumina 2 guides steps up to the share 0.4 of three steps. Z-Image at the times 0, 0.143 and
    0.4 guides those up to 0.2."""
    pipe, family = tiny_family(name), FAMILIES[name]
    at = times(pipe, 64, 64)
    call = {"guidance_scale": 4.0, "height": 64, "width": 64, "num_inference_steps": 3}
    call |= {"output_type": "latent", **family.call, **options}
    where = {"mid": family.blocks["mid"][0]}
    with capture_updates(pipe, where, at, conditionings=["cond"]) as captured:
        pipe(list(PROMPTS), **call)
    assert [captured.updates["mid", t, "cond"].shape[0] for t in at] == [2, 2, 2]
    with capture_updates(pipe, where, at[:guided]) as captured:
        pipe(list(PROMPTS), **call)
    assert len(captured.updates) == 2 * guided
    with (
        pytest.raises(UserError, match="no uncond branch"),
        capture_updates(pipe, where, at[guided : guided + 1], conditionings=["uncond"]),
    ):
        pipe(list(PROMPTS), **call)


def test_z_images_rows_are_cond_before_uncond() -> None:
    """A pipeline that is asked for a negative prompt equal to the prompt, the other way round."""
    pipe, at = tiny_family("z_image"), times(tiny_family("z_image"), 64, 64)[0]
    asked = {**FAMILIES["z_image"].asked, "height": 64, "width": 64, "decode": False}
    options: dict[str, Any] = {"steps": 3, "hookpoints": {"mid": "layers.1"}, "timesteps": [at]}
    one = generate(pipe, ["a cat"], [1], negative_prompt="dogs", **options, **asked).updates
    two = generate(pipe, ["dogs"], [1], negative_prompt="a cat", **options, **asked).updates
    for branch, other in (("cond", "uncond"), ("uncond", "cond")):
        torch.testing.assert_close(
            one["mid", at, branch], two["mid", at, other], rtol=1e-4, atol=1e-5
        )
    assert not torch.allclose(one["mid", at, "cond"], one["mid", at, "uncond"], rtol=1e-2)


def test_a_hidream_call_gives_llamas_states_of_one_branch() -> None:
    """They lie as [layers, rows, tokens, width]: here with as many layers as rows."""
    pipe = tiny_family("hidream")
    asked = {**FAMILIES["hidream"].asked, "height": 64, "width": 64}
    cond = conditions(pipe, ["a cat"], "cond", **asked)
    states = cond["encoder_hidden_states_llama3"]
    assert states.shape[:2] == (3, 1)
    expected = pipe._get_llama3_prompt_embeds(["a cat"], 24)
    torch.testing.assert_close(states, expected)
    uncond = conditions(pipe, ["a cat"], "uncond", **asked)["encoder_hidden_states_llama3"]
    torch.testing.assert_close(uncond, pipe._get_llama3_prompt_embeds([""], 24))


def test_hidream_refuses_a_size_that_its_pipeline_would_change() -> None:
    pipe = tiny_family("hidream")
    with pytest.raises(UserError, match=r"changes height=32 and width=32; .* such as 64 and 64"):
        generate(pipe, ["a cat"], [1], steps=3, guidance=5.0, height=32, width=32)


def test_a_hidream_without_its_fourth_text_encoder_is_refused_when_it_is_loaded() -> None:
    pipe = tiny_family("hidream")
    pipe.default_sample_size = 128  # as in every pipeline that was read from a folder
    adapter_of(pipe).loaded(pipe)
    assert pipe.default_sample_size == 8
    pipe.text_encoder_4 = None
    with pytest.raises(UserError, match=r"no fourth text encoder, .* text_encoder_4"):
        adapter_of(pipe).loaded(pipe)


def test_cogview_4s_noise_at_a_timestep_is_what_its_scheduler_has_there() -> None:
    pipe = tiny_family("cogview4")
    own = pipe.scheduler
    pipe(["a cat"], height=32, width=96, num_inference_steps=3, output_type="latent")
    adapter = adapter_of(pipe)
    found = torch.tensor([adapter.sigma(own, float(t), 12) for t in own.timesteps])
    torch.testing.assert_close(found, own.sigmas[:-1])
    assert abs(found[1] - 0.5) > 0.01  # it is not the timestep's share
