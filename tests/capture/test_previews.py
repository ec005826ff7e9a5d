"""What a running generation will show: seen after every step, and changing nothing."""

from typing import Any

import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)

from diffusae.capture.generate import generate
from diffusae.capture.previews import decoded, watched_steps
from tiny_families import FAMILIES, tiny_family
from tiny_pipeline import ddim


class Holder:
    """What `watched_steps` needs of a pipeline."""

    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler


def seen_of(scheduler: Any, output: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
    """The clean latents that one step at the scheduler's first timestep is said to predict."""
    seen: list[torch.Tensor] = []
    with watched_steps(Holder(scheduler), lambda index, clean: seen.append(clean())):
        scheduler.step(output, scheduler.timesteps[0], sample, return_dict=False)
    return seen[0]


def test_ddim_sees_the_clean_latents_that_a_true_noise_prediction_means():
    scheduler = ddim()
    scheduler.set_timesteps(4)
    clean, noise = torch.randn(2, 1, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    scheduler.config["clip_sample"] = False
    sample = scheduler.add_noise(clean, noise, scheduler.timesteps[:1])
    torch.testing.assert_close(seen_of(scheduler, noise, sample), clean, rtol=1e-3, atol=1e-3)


def test_flow_matching_sees_the_clean_latents_that_a_true_velocity_means():
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(4)
    clean, noise = torch.randn(2, 1, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    sigmas: Any = scheduler.sigmas
    sigma = sigmas[0]
    sample = (1 - sigma) * clean + sigma * noise
    torch.testing.assert_close(seen_of(scheduler, noise - clean, sample), clean)


@pytest.mark.parametrize("name", ["sd", "flux"])
def test_previews_of_a_family_change_no_bit_and_the_last_one_is_the_picture(name):
    pipe = tiny_family(name)
    asked: dict[str, Any] = {"steps": 3, "height": 64, "width": 64} | FAMILIES[name].asked
    plain = generate(pipe, ["a red fish"], [0], **asked).images
    shown: dict[int, np.ndarray] = {}

    def watch(index: int, clean: Any) -> None:
        shown[index] = decoded(pipe, clean(), height=64, width=64)[0]

    with watched_steps(pipe, watch):
        watched = generate(pipe, ["a red fish"], [0], **asked).images
    assert plain is not None and watched is not None
    assert np.array_equal(plain, watched)
    assert list(shown) == [0, 1, 2]
    # The last step arrives at its prediction; DDIM's keeps a trace of noise.
    assert np.abs(shown[2].astype(int) - plain[0].astype(int)).max() <= 3


def test_an_error_of_the_watcher_ends_the_call_and_nothing_is_left_behind():
    pipe = tiny_family("sd")

    class Enough(Exception):
        pass

    def refuse(index: int, clean: Any) -> None:
        raise Enough

    with pytest.raises(Enough), watched_steps(pipe, refuse):
        generate(pipe, ["a red fish"], [0], steps=3, guidance=4.0)
    assert "step" not in vars(pipe.scheduler)
