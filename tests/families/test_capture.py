"""Capture: updates of the true size, at the scheduler's own times, beside a plain look at a block;
pictures and latents are those of the pipeline's own call.
"""

from functools import wraps
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from diffusae.capture.generate import generate
from diffusae.capture.hooks import hook_blocks
from diffusae.errors import UserError
from families.running import PROMPTS, SEEDS, SIZE, STEPS, Case, positions


@pytest.mark.parametrize("block", ["down", "mid", "up"])
def test_the_update_is_output_minus_input_to_the_bit(case: Case, block: str) -> None:
    seen: list[Tensor] = []
    with case.replaced(block, lambda _, before, after: seen.append(positions(after - before))):
        made = case.record(hookpoints={block: case.paths[block]})
    assert len(seen) == STEPS * len(case.family.passes)
    grid, times = case.grid(block), case.timesteps()
    for number, update in enumerate(seen):
        step, branches = case.rows(number)
        for branch, rows in branches.items():
            recorded = made.updates[block, times[step], branch]
            assert recorded.shape == (2, np.prod(grid), case.family.blocks[block][2])
            assert torch.equal(recorded, update[rows])
            assert recorded.abs().max() > 0
    assert made.grids == {block: grid}


def test_timesteps_are_the_schedulers_own(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    step = case.pipe.scheduler.step

    @wraps(step)  # pipelines look whether it takes a generator
    def spy(output: Tensor, timestep: Any, *args: Any, **options: Any) -> Any:
        seen.extend(torch.as_tensor(timestep).unique().tolist())  # Sana Sprint: one a picture
        return step(output, timestep, *args, **options)

    monkeypatch.setattr(case.pipe.scheduler, "step", spy)
    case.make()
    assert seen == case.timesteps()
    assert {timestep for _, timestep, _ in case.plain.updates} == set(seen)


def test_generate_makes_the_picture_that_the_pipeline_itself_makes(case: Case) -> None:
    if case.family.needs:
        with pytest.raises(UserError, match=r"needs a picture besides the prompt|makes videos"):
            generate(case.pipe, PROMPTS, SEEDS, steps=STEPS, guidance=5.0)
        pytest.skip("it needs more than a prompt, or makes videos: no stage runs it")
    made = case.make(decode=True)
    own = case.call(output_type="np")[0]
    assert made.images is not None
    assert np.array_equal(made.images, (own * 255).round().astype(np.uint8))


def test_latents_are_packed_and_unpacked_as_the_pipeline_does(case: Case) -> None:
    latents, adapter = case.latents(), case.adapter
    packed = adapter.pack(latents)
    assert torch.equal(packed, case.family.pack(case.pipe, latents))
    assert torch.equal(adapter.unpack(packed, *latents.shape[-2:]), latents)
    assert adapter.latent_channels == latents.shape[1]
    own = case.call(output_type="latent")[0]
    unpacked = case.family.unpack(case.pipe, own, *SIZE.values())
    assert torch.equal(case.plain.latents, unpacked)


@pytest.mark.parametrize("conditioning", ["cond", "uncond"])
def test_one_pass_with_the_pipelines_conditions_is_its_own_first_pass(
    case: Case, conditioning: str
) -> None:
    first, mid = case.timesteps()[0], {"mid": case.paths["mid"]}
    given = case.conditions(conditioning)
    updates: list[Tensor] = []
    with (
        torch.no_grad(),
        hook_blocks(case.pipe, mid, lambda _block, _moment, update: updates.append(update)),
    ):
        predicted = case.adapter.predict(given, case.latents(), first)
    expected = case.plain.updates["mid", first, conditioning]
    torch.testing.assert_close(updates[0], expected, rtol=1e-4, atol=1e-5)
    assert predicted.shape == case.latents().shape


def test_a_picture_depends_neither_on_its_place_nor_on_its_batch(case: Case) -> None:
    if "mask_image" in case.family.needs:
        pytest.skip("the first picture's generator draws the masked picture's latents for all")
    together, alone = case.plain, case.make(PROMPTS[1:], SEEDS[1:])
    torch.testing.assert_close(together.latents[1:], alone.latents, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(together.latents[0], together.latents[1])


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.slow)]
)
def test_half_precision_is_captured_at_the_schedulers_own_timesteps(
    case: Case, dtype: torch.dtype
) -> None:
    """Some pipelines give their denoiser a thousandth of the timestep, rounded."""
    half = Case(case.name)
    half.pipe.to(dtype)
    times = half.timesteps(5)
    made = half.record(timesteps=times, steps=5)
    assert {timestep for _, timestep, _ in made.updates} == set(times)
    assert all(update.dtype == dtype for update in made.updates.values())
    assert made.nonfinite == {} and made.latents.dtype == torch.float32
