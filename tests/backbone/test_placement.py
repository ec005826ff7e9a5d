"""Steps that are moved by a log-SNR: DDIM's and flow matching's."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)

from diffusae.backbone.families.table import adapter_of
from diffusae.backbone.placement import moved_steps, moved_timesteps
from diffusae.backbone.schedule import timestep_at
from diffusae.errors import UserError
from tiny_families import T5_TOKENS, tiny_family

SD = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def ddim(**changed: Any) -> DDIMScheduler:
    return DDIMScheduler(**(SD | changed))


def log_snr_of(timesteps: Any) -> np.ndarray:
    kept = ddim().alphas_cumprod.numpy()[np.asarray(timesteps)]
    return np.log(kept / (1 - kept))


def placed(scheduler: Any, steps: int, **asked: Any) -> torch.Tensor:
    scheduler.set_timesteps(steps, **asked)
    return scheduler.timesteps


def test_timesteps_move_to_the_wanted_log_snr_and_stay_apart_at_the_end() -> None:
    falling = -np.arange(10.0)
    assert moved_timesteps(np.array([9, 6, 3, 1]), falling, 2.0).tolist() == [7, 4, 2, 1]
    assert moved_timesteps(np.array([9, 6, 3, 1]), falling, 5.0).tolist() == [4, 3, 2, 1]
    assert moved_timesteps(np.array([9, 6, 3, 1]), falling, -5.0).tolist() == [9, 8, 7, 6]


def test_without_a_shift_the_scheduler_stays_itself() -> None:
    own = EulerDiscreteScheduler()
    assert moved_steps(own, 0.0) is own


def test_stable_diffusions_moments_fall_where_small_latents_have_the_same_noise() -> None:
    """What t = 1, .6, .5, .2 are at 64 x 64 lies at t = .71, .19, .13, .02 at 16 x 16."""
    own = 1 + 980 * np.array([1.0, 0.6, 0.5, 0.2, 0.0])  # DDIM's 50 steps go from 981 to 1
    moved = moved_timesteps(own.astype(int), log_snr_of(np.arange(1000)), 2 * math.log(4))
    assert np.abs((moved - 1) / 980 - [0.71, 0.19, 0.13, 0.02, 0.0]).max() < 0.01


@pytest.mark.parametrize("shift", [2.7726, -1.0])
def test_every_step_of_ddim_has_the_log_snr_of_its_own_step_and_the_shift(shift: float) -> None:
    own, moved = placed(ddim(), 25), placed(moved_steps(ddim(), shift), 25)
    assert len(moved.unique()) == 25
    inside = (moved > 60) & (moved < 960)  # elsewhere a timestep is far from the next one
    assert inside.sum() > 10
    difference = log_snr_of(moved[inside]) - log_snr_of(own[inside])
    assert np.abs(difference - shift).max() < 0.02


@pytest.mark.parametrize(
    "changed", [{}, {"set_alpha_to_one": True}, {"timestep_spacing": "trailing"}]
)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_a_moved_scheduler_makes_ddims_own_steps(changed: Any, prediction: str) -> None:
    own: Any = ddim(**changed, prediction_type=prediction)
    moved = moved_steps(own, 1e-9)
    assert placed(moved, 10).tolist() == placed(own, 10).tolist()
    generator = torch.Generator().manual_seed(0)
    one = other = torch.randn(1, 4, 2, 2, generator=generator)
    for t in own.timesteps:
        predicted = torch.randn(1, 4, 2, 2, generator=generator)
        one = own.step(predicted, t, one).prev_sample
        other = moved.step(predicted, t, other).prev_sample
    assert torch.allclose(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("asked", [{"shift": 3.0}, {"use_dynamic_shifting": True}])
def test_every_step_of_flow_matching_has_a_log_snr_that_is_higher_by_the_shift(asked: Any) -> None:
    own: Any = FlowMatchEulerDiscreteScheduler(**asked)
    mu = {"mu": 0.7} if "shift" not in asked else {}
    placed(own, 8, **mu)
    moved = moved_steps(own, 2.0)
    # A pipeline works mu out between the ends that the scheduler names.
    by = moved.config["max_shift"] - own.config["max_shift"]
    placed(moved, 8, **({"mu": 0.7 + by} if mu else {}))
    sigmas = [one.sigmas[1:-1].double() for one in (own, moved)]
    log_snr = [2 * torch.log((1 - sigma) / sigma) for sigma in sigmas]
    assert torch.allclose(log_snr[1] - log_snr[0], torch.tensor(2.0).double(), atol=1e-3)


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_the_steps_that_are_planned_are_those_of_a_moved_pipeline(family: str) -> None:
    pipe = tiny_family(family)
    pipe.scheduler = moved_steps(pipe.scheduler, 2.0)
    adapter = adapter_of(pipe)
    planned = [
        timestep_at(pipe.scheduler, 3, t, schedule=lambda s, n: adapter.schedule(s, n, 16))
        for t in (1.0, 0.5, 0.0)
    ]
    pipe(
        "a cat",
        num_inference_steps=3,
        height=64,
        width=64,
        max_sequence_length=T5_TOKENS,
        output_type="latent",
    )
    assert planned == pytest.approx(pipe.scheduler.timesteps.tolist())


@pytest.mark.parametrize(
    ("scheduler", "why"),
    [
        (EulerDiscreteScheduler(), "EulerDiscreteScheduler: its steps cannot be moved"),
        (ddim(clip_sample=True), "DDIMScheduler clips samples"),
        (FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True), "with use_karras_sigmas: its"),
    ],
)
def test_schedulers_whose_steps_cannot_be_moved_are_refused(scheduler: Any, why: str) -> None:
    with pytest.raises(UserError, match=f"{why}.*model.log_snr_shift=0"):
        moved_steps(scheduler, 1.0)
