import pytest
import torch

from diffusae.backbone.families.table import list_hookpoints
from diffusae.backbone.hookpoints import denoiser_of
from diffusae.backbone.random_weights import with_random_denoiser
from tiny_families import tiny_family


@pytest.mark.parametrize("family", ["sd", "flux"])
def test_the_denoiser_alone_is_drawn_anew_from_its_seed(family: str) -> None:
    pipes = [tiny_family(family) for _ in range(3)]
    trained = denoiser_of(pipes[0]).state_dict()
    state = torch.get_rng_state()
    for pipe, seed in zip(pipes, (7, 7, 8), strict=True):
        with_random_denoiser(pipe, seed=seed)
    assert torch.equal(torch.get_rng_state(), state)
    drawn = [denoiser_of(pipe) for pipe in pipes]
    weights = [denoiser.state_dict() for denoiser in drawn]
    matrices = [
        name for name, value in trained.items() if value.ndim > 1 and value.is_floating_point()
    ]
    assert weights[0].keys() == trained.keys() and not drawn[0].training
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in trained)
    assert not any(
        torch.equal(weights[0][name], trained[name]) for name in matrices if trained[name].std() > 0
    )
    assert not all(torch.equal(weights[0][name], weights[2][name]) for name in matrices)
    assert list_hookpoints(drawn[0]) == list_hookpoints(denoiser_of(tiny_family(family)))
    encoder, untouched = (
        pipes[0].text_encoder.state_dict(),
        tiny_family(family).text_encoder.state_dict(),
    )
    assert all(torch.equal(encoder[name], untouched[name]) for name in untouched)
