"""Pictures as a pipeline's latents, and back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from diffusae.backbone.hookpoints import execution_device


@torch.no_grad()
def encode_pictures(
    pipe: Any, pictures: UInt8[Tensor, "n height width 3"], *, batch_size: int
) -> Float[Tensor, "n channels h w"]:
    """The latents (means) of pictures, in the denoiser's scale and the autoencoder's dtype."""
    vae, dtype = pipe.vae, pipe.vae.dtype
    with _upcast(vae):
        pixels = pictures.permute(0, 3, 1, 2).to(execution_device(pipe), vae.dtype) / 127.5 - 1
        parts = [_framed(vae, part) for part in pixels.split(batch_size)]
        latents = torch.cat([_frameless(vae, _mean(vae.encode(part))) for part in parts])
    shift, factor = _scale(vae, latents)
    return ((latents.to(dtype) - shift) * factor).to(dtype)


@torch.no_grad()
def decode_latents(
    vae: Any, latents: Float[Tensor, "n channels h w"]
) -> Float[Tensor, "n 3 height width"]:
    """Pictures in [-1, 1], float32, of latents in the denoiser's scale."""
    shift, factor = _scale(vae, latents)
    with _upcast(vae):
        decoded = vae.decode(_framed(vae, (latents / factor + shift).to(vae.dtype))).sample
    return _frameless(vae, decoded).float()


def _mean(encoded: Any) -> Tensor:
    """The mean of what an autoencoder returns. AutoencoderDC returns a latent alone."""
    return encoded.latent if hasattr(encoded, "latent") else encoded.latent_dist.mean


def _of_videos(vae: Any) -> bool:
    """Whether an autoencoder is one of videos (Qwen-Image): a picture is a video of one frame."""
    return "temperal_downsample" in vae.config


def _framed(vae: Any, pictures: Tensor) -> Tensor:
    return pictures.unsqueeze(2) if _of_videos(vae) else pictures


def _frameless(vae: Any, pictures: Tensor) -> Tensor:
    return pictures.squeeze(2) if _of_videos(vae) else pictures


def _scale(vae: Any, latents: Float[Tensor, "n channels h w"]) -> tuple[Any, Any]:
    """(shift, factor): the denoiser's latents are (the autoencoder's - shift) * factor.

    FLUX.2's autoencoder normalises packs of 2 x 2 entries by a batch norm: its 4 values a channel
    are repeated over the latents, as (row, column) of an entry in its pack.
    """
    norm = getattr(vae, "bn", None)
    if norm is not None:
        packs = [size // 2 for size in latents.shape[-2:]]
        values = norm.running_mean, (norm.running_var + vae.config.batch_norm_eps).rsqrt()
        mean, factor = (one.view(1, -1, 2, 2).repeat(1, 1, *packs).to(latents) for one in values)
        return mean, factor
    if _of_videos(vae):
        mean, std = (
            torch.tensor(vae.config[name], device=latents.device)[:, None, None]
            for name in ("latents_mean", "latents_std")
        )
        return mean, 1 / std
    return vae.config.get("shift_factor") or 0.0, vae.config.scaling_factor


@contextmanager
def _upcast(vae: Any) -> Iterator[None]:
    """In float32 within the context, if the autoencoder overflows in half precision (`force_upcast`
    of Stable Diffusion XL). The way back changes no weight."""
    own = vae.dtype
    if own != torch.float16 or not vae.config.get("force_upcast", False):
        yield
        return
    vae.to(torch.float32)
    try:
        yield
    finally:
        vae.to(own)
