"""Decoding inverts encoding: the pipelines' scale and shift, and float32 against overflow."""

import pytest
import torch

from diffusae.backbone.latents import encode_pictures
from tiny_families import PIXELS, USUAL, tiny_family

PICTURES = torch.randint(
    0, 256, (3, PIXELS, PIXELS, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)


@pytest.mark.parametrize("family", USUAL)
def test_latents_are_the_autoencoders_means_shifted_and_scaled(family: str) -> None:
    pipe = tiny_family(family)
    pixels = PICTURES.permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        means = pipe.vae.encode(pixels).latent_dist.mean
    # What the pipelines do before they decode: latents / scaling_factor + shift_factor.
    latents = encode_pictures(pipe, PICTURES, batch_size=2)
    undone = latents / pipe.vae.config.scaling_factor + (pipe.vae.config.shift_factor or 0.0)
    torch.testing.assert_close(undone, means, rtol=1e-4, atol=1e-5)


def test_an_autoencoder_that_overflows_in_half_encodes_in_float32_and_is_itself_again() -> None:
    pipe, kept = tiny_family("sdxl"), tiny_family("sd")
    pipe, kept = pipe.to(torch.float16), kept.to(torch.float16)
    seen: list[torch.dtype] = []
    for one in (pipe, kept):
        one.vae.encoder.register_forward_pre_hook(lambda _m, args: seen.append(args[0].dtype))
        assert encode_pictures(one, PICTURES, batch_size=3).dtype == torch.float16
        assert {parameter.dtype for parameter in one.vae.parameters()} == {torch.float16}
    assert seen[0] == torch.float32
    assert not kept.vae.config.force_upcast or seen[1] == torch.float32
