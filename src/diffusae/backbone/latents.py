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
    latents = torch.cat([vae.encode(part).latent_dist.mean for part in pixels.split(batch_size)])
    if upcast:
        vae.to(dtype)
        latents = latents.to(dtype)
    shift, factor = normalisation(vae, latents)
    return (latents - shift) * factor


def normalisation(
    vae: Any, latents: Float[Tensor, "n channels h w"]
) -> tuple[Tensor | float, Tensor | float]:
    """(shift, factor) of an autoencoder: (latents - shift) * factor are in the denoiser's scale.

    FLUX.2's autoencoder normalises packs of 2 x 2 entries by a batch norm: its 4 values a channel
    are repeated over the latents, as (row, column) of an entry in its pack.
    """
    config, norm = vae.config, getattr(vae, "bn", None)
    if norm is None:
        return config.get("shift_factor") or 0.0, config.scaling_factor
    packs = [size // 2 for size in latents.shape[-2:]]

    def spread(values: Tensor) -> Tensor:
        return values.view(1, -1, 2, 2).repeat(1, 1, *packs).to(latents)

    return spread(norm.running_mean), spread((norm.running_var + config.batch_norm_eps).rsqrt())
