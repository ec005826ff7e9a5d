"""Pictures as a pipeline's latents."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from diffusae.backbone.hookpoints import execution_device


@torch.no_grad()
def encode_pictures(
    pipe: Any, pictures: UInt8[Tensor, "n height width 3"], *, batch_size: int
) -> Float[Tensor, "n channels h w"]:
    """The latents (means) of pictures, in the denoiser's scale and the autoencoder's dtype.

    An autoencoder that overflows in half precision (`force_upcast` of Stable Diffusion XL) encodes
    in float32.
    """
    vae = pipe.vae
    dtype, config = vae.dtype, vae.config
    upcast = dtype == torch.float16 and config.get("force_upcast", False)
    if upcast:
        vae.to(torch.float32)
    pixels = pictures.permute(0, 3, 1, 2).to(execution_device(pipe), vae.dtype) / 127.5 - 1
    latents = torch.cat([_mean(vae.encode(part)) for part in pixels.split(batch_size)])
    if upcast:
        vae.to(dtype)
        latents = latents.to(dtype)
    shift = config.get("shift_factor")
    return (latents if shift is None else latents - shift) * config.scaling_factor


def _mean(encoded: Any) -> Tensor:
    """The mean of what an autoencoder returns. AutoencoderDC returns a latent alone."""
    return encoded.latent if hasattr(encoded, "latent") else encoded.latent_dist.mean
