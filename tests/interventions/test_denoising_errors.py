"""The denoising error under flow matching, by hand; tests/families has it for every family."""

from typing import Any

import pytest
import torch

from diffusae.interventions.denoising import denoising_errors
from tiny_families import tiny_family


def test_flow_matching_mixes_clean_and_noise_and_aims_at_their_difference(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """sigma = 0.25: the input is 0.75 x_0 + 0.25 noise; a prediction of 0 has the error
    mean (noise - x_0)^2.
    """
    pipe = tiny_family("flux")
    seen = []

    def forward(hidden_states: torch.Tensor, **_: Any) -> tuple[torch.Tensor]:
        seen.append(hidden_states)
        return (torch.zeros_like(hidden_states),)

    monkeypatch.setattr(pipe.transformer, "forward", forward)
    latents, noise = torch.full((1, 4, 4, 4), 2.0), torch.full((1, 4, 4, 4), -2.0)
    given: dict[str, Any] = {"latents": latents, "noise": noise, "conditions": {}}
    (error,) = denoising_errors(pipe, None, timestep=250.0, **given)
    assert float(error) == 16.0
    assert seen[0].unique().tolist() == [1.0]
