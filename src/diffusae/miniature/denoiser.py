"""The miniature's text encoder and U-Net, trained together on the latents of the pool."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import CLIPTextConfig, CLIPTextModel

from diffusae.miniature.fit import channels_last, falling_rate

TEXT_WIDTH = 128


def build_text_encoder(tokenizer: Any) -> CLIPTextModel:
    """A CLIP text encoder of four layers, from random weights."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        projection_dim=TEXT_WIDTH,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def build_unet() -> UNet2DConditionModel:
    """A U-Net of two resolutions (16 and 8), with cross-attention in all of its blocks."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        block_out_channels=(64, 128),
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,  # diffusers reads this as the number of heads
        norm_num_groups=8,
    )


def build_scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule with v-prediction; its last step keeps some signal."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
    )


def draw_timestep(rng: np.random.Generator, *, uniform: float = 0.25) -> int:
    """A training timestep, 0 to 999, drawn more often where shapes are decided.

    A quarter of the draws are uniform. The others are logit-normal (Esser et al. 2024, section 3.1)
    with the median 380, where signal and noise are about equally strong: a latent of 16 x 16 is
    almost pure noise above 700, and little is left to decide below 100.
    """
    if rng.random() < uniform:
        return int(rng.integers(1000))
    return int(1000 / (1 + math.exp(-rng.normal(-0.5, 0.9))))


class CaptionedLatents(torch.utils.data.Dataset[dict[str, Tensor]]):
    """The pool's latents with tokenised captions, some of them dropped.

    Order and dropped captions follow from the seed: item i is the same in every run. Each pass over
    the pool has its own order.
    """

    def __init__(
        self,
        latents: np.ndarray,
        tokens: Tensor,
        empty: Tensor,
        *,
        length: int,
        drop: float = 0.1,
        seed: int,
    ) -> None:
        self.latents, self.tokens, self.empty = latents, tokens, empty
        self.length, self.drop, self.seed = length, drop, seed
        self._pass, self._order = -1, np.empty(0, np.int64)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        which, place = divmod(index, len(self.latents))
        if which != self._pass:
            order = np.random.default_rng([self.seed, which]).permutation(len(self.latents))
            self._pass, self._order = which, order
        item = int(self._order[place])
        rng = np.random.default_rng([self.seed, 1, index])
        tokens = self.empty if rng.random() < self.drop else self.tokens[item]
        noise = torch.from_numpy(rng.standard_normal(self.latents.shape[1:], dtype=np.float32))
        timestep = torch.tensor(draw_timestep(rng))
        latent = torch.from_numpy(np.asarray(self.latents[item], np.float32))
        return {"latent": latent, "tokens": tokens, "noise": noise, "timestep": timestep}


class Denoiser(nn.Module):
    """Text encoder and U-Net as one trainable module."""

    def __init__(self, text_encoder: CLIPTextModel, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.text_encoder, self.unet = text_encoder, unet

    def forward(self, latent: Tensor, timestep: Tensor, tokens: Tensor) -> Tensor:
        states = self.text_encoder(tokens).last_hidden_state
        return self.unet(latent, timestep, encoder_hidden_states=states).sample


class DenoiserTraining(pl.LightningModule):
    """v-prediction with mean squared error; the weights' moving average is what is shipped."""

    def __init__(
        self, denoiser: Denoiser, *, steps: int, learning_rate: float = 1e-3, average: float = 0.999
    ) -> None:
        super().__init__()
        self.denoiser = channels_last(denoiser)
        self.averaged = AveragedModel(denoiser, multi_avg_fn=get_ema_multi_avg_fn(average))
        self.scheduler: Any = build_scheduler()
        self.steps, self.learning_rate = steps, learning_rate

    def training_step(self, batch: dict[str, Tensor], batch_index: int) -> Tensor:
        latent, noise, timestep = batch["latent"], batch["noise"], batch["timestep"]
        noisy = self.scheduler.add_noise(latent, noise, timestep)
        noisy = noisy.to(memory_format=torch.channels_last)
        target = self.scheduler.get_velocity(latent, noise, timestep)
        loss = F.mse_loss(self.denoiser(noisy, timestep, batch["tokens"]).float(), target)
        self.log("loss", loss, prog_bar=True)
        return loss

    def on_train_batch_end(self, outputs, batch, batch_index: int) -> None:
        # Restart the average at first: it must not remember the random weights.
        if self.global_step % 10 == 0 and self.global_step < 1000:
            self.averaged.n_averaged.zero_()
        self.averaged.update_parameters(self.denoiser)

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(
            self.denoiser.parameters(),
            lr=self.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=0.01,
            fused=True,
        )
        rate = partial(falling_rate, steps=self.steps)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
