"""A replayed call gives the same picture without running the denoiser, and leaves nothing
behind."""

import pytest
import torch

from diffusae.capture.hooks import hook_blocks
from diffusae.capture.replay import recorded_outputs, replayed_outputs
from diffusae.errors import UserError
from tiny_pipeline import HOOKPOINTS

TIMESTEPS = (667.0, 334.0, 1.0)


def run(pipe):
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    options = {"num_inference_steps": 3, "guidance_scale": 5.0, "output_type": "latent"}
    return pipe(["a cat", "dogs"], latents=latents, **options).images


def test_a_replayed_call_is_the_recorded_one_and_runs_only_the_rest(pipe):
    with recorded_outputs(pipe) as outputs:
        whole = run(pipe)
    assert tuple(outputs) == TIMESTEPS
    visited = []
    with (
        replayed_outputs(pipe, outputs, TIMESTEPS[:2]),
        hook_blocks(
            pipe,
            {"mid": HOOKPOINTS["mid"]},
            lambda _block, moment, *_: visited.append(moment.timestep),
        ),
    ):
        assert torch.equal(run(pipe), whole)
    assert visited == [1.0]
    assert "forward" not in vars(pipe.unet)
    assert torch.equal(run(pipe), whole)


def test_the_denoiser_is_itself_again_after_an_error(pipe):
    with recorded_outputs(pipe) as outputs:
        run(pipe)
    with pytest.raises(ZeroDivisionError), replayed_outputs(pipe, outputs, TIMESTEPS):
        raise ZeroDivisionError
    assert "forward" not in vars(pipe.unet)


def test_what_cannot_be_told_apart_or_was_not_recorded_is_refused(pipe):
    with pytest.raises(UserError, match="comes twice"), recorded_outputs(pipe):
        [run(pipe) for _ in range(2)]
    with (
        pytest.raises(UserError, match="timestep 5 was not recorded"),
        replayed_outputs(pipe, {}, [5.0]),
    ):
        pass
