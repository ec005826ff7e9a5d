"""The miniature's autoencoder, from pictures of 64 px to latents of 16 x 16 and back."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from diffusae.miniature.fit import channels_last, falling_rate

_AUTOENCODER: Any = AutoencoderKL  # diffusers types its arguments by their defaults


def build_autoencoder(latent_channels: int) -> Any:
    """A fully convolutional `AutoencoderKL` with 4 x downsampling: it can be trained on crops."""
    return _AUTOENCODER(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(24, 48, 64),
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=8,
        sample_size=64,
        mid_block_add_attention=False,
    )


def to_unit_range(pictures: np.ndarray) -> Tensor:
    """uint8 `[n, H, W, 3]` -> float32 `[n, 3, H, W]` in [-1, 1], the input of the autoencoder."""
    return torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


class RandomCrops(torch.utils.data.Dataset[Tensor]):
    """Crops of the pool's pictures. Item i is always the same crop, also after a resumed run.

    They start at multiples of 4 px, as the latents of whole pictures do: a fine grain so has the
    same place in its latent.
    """

    def __init__(self, pictures: np.ndarray, *, size: int, length: int, seed: int) -> None:
        self.pictures, self.size, self.length, self.seed = pictures, size, length, seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Tensor:
        rng = np.random.default_rng([self.seed, index])
        picture = self.pictures[rng.integers(len(self.pictures))]
        y, x = 4 * rng.integers(0, (picture.shape[0] - self.size) // 4 + 1, size=2)
        return to_unit_range(picture[None, y : y + self.size, x : x + self.size])[0]


class AutoencoderTraining(pl.LightningModule):
    """L1 + 3 MSE + a weak KL term, learning rate as `falling_rate`."""

    def __init__(
        self,
        *,
        steps: int,
        latent_channels: int,
        learning_rate: float = 1.5e-3,
        kl_weight: float = 1e-6,
    ) -> None:
        super().__init__()
        self.autoencoder = channels_last(build_autoencoder(latent_channels))
        self.steps, self.learning_rate, self.kl_weight = steps, learning_rate, kl_weight

    def training_step(self, batch: Tensor, batch_index: int) -> Tensor:
        batch = batch.to(memory_format=torch.channels_last)
        posterior = self.autoencoder.encode(batch).latent_dist
        decoded = self.autoencoder.decode(posterior.sample()).sample
        error = decoded - batch
        kl = self.kl_weight * posterior.kl().mean()
        loss = error.abs().mean() + 3 * error.square().mean() + kl
        psnr = 10 * torch.log10(4 / error.detach().float().square().mean())
        self.log("psnr", psnr, prog_bar=True)
        return loss

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.learning_rate, weight_decay=0.0)
        rate = partial(falling_rate, steps=self.steps)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


@torch.no_grad()
def encode_pictures(autoencoder: Any, pictures: np.ndarray) -> Tensor:
    """Latent means, unscaled, float32 `[n, channels, H/4, W/4]`."""
    device = next(autoencoder.parameters()).device
    return autoencoder.encode(to_unit_range(pictures).to(device)).latent_dist.mean.float()


@torch.no_grad()
def reconstruct(autoencoder: Any, pictures: np.ndarray) -> np.ndarray:
    """Encode and decode: uint8 in, uint8 out, `[n, H, W, 3]`."""
    device = next(autoencoder.parameters()).device
    latents = encode_pictures(autoencoder, pictures).to(device)
    decoded = (autoencoder.decode(latents).sample.float() + 1) * 127.5
    return decoded.round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
