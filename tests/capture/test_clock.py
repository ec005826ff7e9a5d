from types import SimpleNamespace

import pytest
import torch
from torch import nn

from diffusae.capture.clock import running_clock
from diffusae.errors import UserError


class UNet2DConditionModel(nn.Module):
    """Known by its name alone."""

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor | float) -> torch.Tensor:
        return sample


def pipe_of(denoiser: nn.Module) -> SimpleNamespace:
    return SimpleNamespace(unet=denoiser)


@pytest.mark.parametrize("timestep", [981, 981.0, torch.tensor(981), torch.tensor([981, 981])])
def test_the_clock_reads_the_timestep_in_every_form(timestep) -> None:
    denoiser = UNet2DConditionModel()
    with running_clock(pipe_of(denoiser)) as clock:
        denoiser(torch.zeros(1), timestep)
        denoiser(sample=torch.zeros(1), timestep=timestep)
    assert clock.now == 981
    assert clock.visited == [981, 981]


def test_the_clock_stops_with_its_context_and_on_errors() -> None:
    denoiser = UNet2DConditionModel()
    with pytest.raises(TypeError, match="missing"), running_clock(pipe_of(denoiser)) as clock:
        denoiser(timestep=5)
    denoiser(torch.zeros(1), 4)
    assert clock.visited == [5]
    assert not denoiser._forward_pre_hooks


def test_a_batch_of_mixed_timesteps_is_refused() -> None:
    denoiser = UNet2DConditionModel()
    with running_clock(pipe_of(denoiser)), pytest.raises(UserError, match="mixes 2 timesteps"):
        denoiser(torch.zeros(2), torch.tensor([1, 2]))


def test_a_denoiser_that_takes_no_time_and_one_without_an_adapter_are_refused_by_name() -> None:
    timeless = type("UNet2DConditionModel", (nn.Identity,), {})()
    for denoiser, refusal in (
        (timeless, "UNet2DConditionModel takes no time"),
        (nn.Identity(), "the class Identity is not supported, but adapters exist for UNet2D"),
    ):
        with pytest.raises(UserError, match=refusal), running_clock(pipe_of(denoiser)):
            pass
