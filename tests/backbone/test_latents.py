"""Decoding inverts encoding: the pipelines' scale and shift, and float32 against overflow."""

import pytest
import torch

from diffusae.backbone.latents import decode_latents, encode_pictures
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


def test_an_autoencoder_of_videos_has_a_picture_as_its_one_frame_and_its_own_scale() -> None:
    """Decoding is what Qwen-Image's pipeline itself does with its latents."""
    pipe = tiny_family("qwen_image")
    latents = encode_pictures(pipe, PICTURES[:2], batch_size=1)
    assert latents.shape == (2, 4, 8, 8)
    packed = pipe._pack_latents(latents, *latents.shape)
    call = {"num_inference_steps": 1, "height": PIXELS, "width": PIXELS, "output_type": "pt"}
    pipe.scheduler.step = lambda _output, _t, sample, **_: (sample,)
    own = pipe(["a", "b"], latents=packed, true_cfg_scale=1.0, **call).images
    decoded = (decode_latents(pipe.vae, latents) / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(decoded, own, rtol=1e-4, atol=1e-5)
    raw = decode_latents(pipe.vae, torch.zeros(1, 4, 8, 8))
    means = torch.tensor(pipe.vae.config.latents_mean)[None, :, None, None, None]
    with torch.no_grad():
        expected = pipe.vae.decode(means.expand(1, 4, 1, 8, 8)).sample[:, :, 0]
    torch.testing.assert_close(raw, expected)
