"""Reconstructions and means in place of an update, and the denoising error with them."""

import pytest
import torch

from diffusae.errors import UserError
from diffusae.interventions.denoising import denoising_errors
from diffusae.interventions.edits import Edit, Reconstruct, ReplaceBy
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.sparsity import TopK
from tiny_pipeline import D_IN, HOOKPOINTS

SAE = SparseAutoencoder(D_IN["mid"], 3 * D_IN["mid"], TopK(4), seed=5)
UPDATES = torch.randn(2, 4, D_IN["mid"], generator=torch.Generator().manual_seed(0))


def edit(change) -> Edit:
    return Edit(HOOKPOINTS["mid"], change)


def test_the_reconstruction_replaces_the_update():
    torch.testing.assert_close(edit(Reconstruct(SAE))(UPDATES, (2, 2)), SAE(UPDATES).detach())


def test_reconstruction_and_error_together_change_nothing_up_to_rounding():
    edited = edit(Reconstruct(SAE, with_error=True))(UPDATES, (2, 2))
    torch.testing.assert_close(edited, UPDATES, rtol=1e-5, atol=1e-5)


def test_one_update_replaces_those_of_all_pictures_by_position_or_alike():
    mean = UPDATES.mean(dim=0)
    torch.testing.assert_close(edit(ReplaceBy(mean))(UPDATES, (2, 2)), mean.expand(2, -1, -1))
    torch.testing.assert_close(edit(ReplaceBy(mean[0]))(UPDATES, (2, 2)), mean[0].expand(2, 4, -1))
    with pytest.raises(UserError, match="3 positions cannot stand in for 4"):
        edit(ReplaceBy(mean[:3]))(UPDATES, (2, 2))


def errors(pipe, change=None):
    generator = torch.Generator().manual_seed(2)
    latents, noise = (torch.randn(2, 4, 8, 8, generator=generator) for _ in range(2))
    states, _ = pipe.encode_prompt(["a cat", "dogs"], pipe.device, 1, False)
    return denoising_errors(
        pipe,
        None if change is None else edit(change),
        latents=latents,
        noise=noise,
        timestep=334,
        conditions={"encoder_hidden_states": states},
    )


def test_the_control_keeps_the_denoising_error_and_the_reconstruction_does_not(pipe):
    own = errors(pipe)
    assert own.shape == (2,)
    control = errors(pipe, Reconstruct(SAE, with_error=True))
    torch.testing.assert_close(control, own, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(errors(pipe, Reconstruct(SAE)), own, rtol=1e-4)


def test_the_error_is_the_distance_from_what_the_model_was_trained_to_predict(pipe, monkeypatch):
    monkeypatch.setattr(pipe.unet, "forward", lambda sample, **_: (torch.zeros_like(sample),))
    generator = torch.Generator().manual_seed(2)
    latents, noise = (torch.randn(2, 4, 8, 8, generator=generator) for _ in range(2))
    error = errors(pipe)
    kind = pipe.scheduler.config.prediction_type
    assert kind == "epsilon"
    torch.testing.assert_close(error, noise.square().flatten(1).mean(dim=1))
    assert not torch.allclose(error, latents.square().flatten(1).mean(dim=1))
