"""What a pipeline's denoiser looks like, read off its configuration alone: no weights are loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from diffusae.backbone.hookpoints import HookpointInfo, list_hookpoints
from diffusae.errors import UserError


@dataclass(frozen=True)
class Description:
    """The hookable blocks of a U-Net, the pixels a latent entry stands for (`scale`, along each side), and the `tokens`
    of a padded prompt."""

    hookpoints: dict[str, HookpointInfo]
    scale: int
    tokens: int


def describe(source: str | Path, *, revision: str | None = None) -> Description:
    """Build the denoiser of a folder or hub id on the meta device and list its hookpoints.

    `UserError` when the configuration cannot be had; it names what would serve.
    """
    try:
        unet: Any = UNet2DConditionModel.load_config(source, subfolder="unet", revision=revision)
        vae: Any = AutoencoderKL.load_config(source, subfolder="vae", revision=revision)
        text: Any = AutoencoderKL.load_config(source, subfolder="text_encoder", revision=revision)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"the configuration of {str(source)!r} cannot be read ({reason}); set model.source to a local folder in "
            "the diffusers layout (with unet/config.json, vae/config.json and text_encoder/config.json)"
        ) from error
    with torch.device("meta"):
        denoiser: Any = UNet2DConditionModel.from_config(unet)
    return Description(
        list_hookpoints(denoiser), 2 ** (len(vae["block_out_channels"]) - 1), text["max_position_embeddings"]
    )
