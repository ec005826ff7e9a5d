"""The miniature's text encoder and denoiser, trained together on the latents of the pool."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
from diffusers import PixArtTransformer2DModel, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from diffusae.miniature.fit import channels_last, falling_rate
from diffusae.miniature.muon import Muon, hidden_matrices
from diffusae.miniature.schedule import NoiseSchedule
from diffusae.miniature.transformer import build_transformer

TEXT_WIDTH = 128
UP_BLOCKS = 2
"""Blocks of the U-Net's way up."""


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


def build_unet(latent_channels: int) -> UNet2DConditionModel:
    """A U-Net of two resolutions (16 and 8), with cross-attention in all of its blocks."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=latent_channels,
        out_channels=latent_channels,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        block_out_channels=(64, 128),
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,  # diffusers reads this as the number of heads
        norm_num_groups=8,
    )


class SkipDropping:
    """Takes the skip connections of some pictures away while a U-Net is trained.

    The way up then has the middle block alone to read, which so learns what is where.

    Attributes:
        kept: 1 or 0 for every picture and block of the way up, `[n, blocks]`; None: all are kept.
    """

    def __init__(self, unet: UNet2DConditionModel) -> None:
        self.kept: Tensor | None = None
        for place, block in enumerate(unet.up_blocks):
            block.register_forward_pre_hook(partial(self._drop, place), with_kwargs=True)

    def _drop(self, place: int, block: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        if self.kept is None:
            return None
        kept = self.kept[:, place, None, None, None]
        name = "res_hidden_states_tuple"
        return args, kwargs | {name: tuple(skip * kept for skip in kwargs[name])}


class CaptionedLatents(torch.utils.data.Dataset[dict[str, Tensor]]):
    """The pool's latents with tokenised captions, noise and timesteps.

    Item i follows from the seed and is the same in every run. Each pass over the pool has its own
    order.

    Args:
        drop: the share of captions that are empty.
        skip_drop: the share of items for which a block of the way up has no skip connections.
    """

    def __init__(
        self,
        latents: np.ndarray,
        tokens: Tensor,
        empty: Tensor,
        *,
        length: int,
        schedule: NoiseSchedule,
        skip_drop: float,
        drop: float = 0.1,
        seed: int,
    ) -> None:
        self.latents, self.tokens, self.empty = latents, tokens, empty
        self.length, self.schedule, self.seed = length, schedule, seed
        self.drop, self.skip_drop = drop, skip_drop
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
        timestep = torch.tensor(self.schedule.timestep(rng))
        kept = torch.from_numpy((rng.random(UP_BLOCKS) >= self.skip_drop).astype(np.float32))
        latent = torch.from_numpy(np.asarray(self.latents[item], np.float32))
        sample = {"latent": latent, "tokens": tokens, "noise": noise}
        return sample | {"timestep": timestep, "kept": kept}


class Denoiser(nn.Module):
    """Text encoder and U-Net or transformer as one trainable module.

    Args:
        network: has the name `component` here, as in the pipeline's folder.
    """

    def __init__(
        self, text_encoder: CLIPTextModel, network: UNet2DConditionModel | PixArtTransformer2DModel
    ) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        self.component = "unet" if isinstance(network, UNet2DConditionModel) else "transformer"
        self.add_module(self.component, network)

    @classmethod
    def new(
        cls, kind: Literal["unet", "dit"], tokenizer: CLIPTokenizer, latent_channels: int
    ) -> Denoiser:
        """One with random weights."""
        text_encoder = build_text_encoder(tokenizer)
        if kind == "unet":
            return cls(text_encoder, build_unet(latent_channels))
        return cls(text_encoder, build_transformer(latent_channels, TEXT_WIDTH))

    @property
    def network(self) -> Any:
        """The U-Net or the transformer."""
        return getattr(self, self.component)

    def forward(self, latent: Tensor, timestep: Tensor, tokens: Tensor) -> Tensor:
        given: dict[str, Tensor] = {}
        if self.component == "transformer":  # whose pipeline hides the padding; a U-Net sees it
            given["encoder_attention_mask"] = self._words(tokens)
        states = self.text_encoder(tokens).last_hidden_state
        network = self.network
        return network(latent, timestep=timestep, encoder_hidden_states=states, **given).sample

    def _words(self, tokens: Tensor) -> Tensor:
        """1 up to the first end token, and 0 for the padding after it, which has the same token."""
        end: Any = self.text_encoder.config.eos_token_id
        ends = torch.eq(tokens, end).long()
        return (ends.cumsum(1) - ends == 0).long()


class DenoiserTraining(pl.LightningModule):
    """v-prediction with mean squared error; the weights' moving average is what is shipped."""

    def __init__(
        self,
        denoiser: Denoiser,
        *,
        steps: int,
        schedule: NoiseSchedule,
        learning_rate: float = 1e-3,
        average: float = 0.999,
    ) -> None:
        super().__init__()
        self.denoiser = channels_last(denoiser)
        self.averaged = AveragedModel(denoiser, multi_avg_fn=get_ema_multi_avg_fn(average))
        self.skips = None
        if denoiser.component == "unet":
            self.skips = SkipDropping(denoiser.network)  # after the copy for the average was made
        self.scheduler: Any = schedule.scheduler()
        self.steps, self.learning_rate = steps, learning_rate

    def training_step(self, batch: dict[str, Tensor], batch_index: int) -> Tensor:
        latent, noise, timestep = batch["latent"], batch["noise"], batch["timestep"]
        noisy = self.scheduler.add_noise(latent, noise, timestep)
        noisy = noisy.to(memory_format=torch.channels_last)
        target = self.scheduler.get_velocity(latent, noise, timestep)
        if self.skips is not None:
            self.skips.kept = batch["kept"]
        loss = F.mse_loss(self.denoiser(noisy, timestep, batch["tokens"]).float(), target)
        self.log("loss", loss, prog_bar=True)
        return loss

    def on_train_batch_end(self, outputs, batch, batch_index: int) -> None:
        # Restart the average at first: it must not remember the random weights.
        if self.global_step % 10 == 0 and self.global_step < 1000:
            self.averaged.n_averaged.zero_()
        self.averaged.update_parameters(self.denoiser)

    def configure_optimizers(self):
        outer = [
            f"{self.denoiser.component}.{name}" for name in ("conv_in", "conv_out", "proj_out")
        ]
        matrices = hidden_matrices(self.denoiser, outer=outer)
        chosen = set(map(id, matrices))
        others = [one for one in self.denoiser.parameters() if id(one) not in chosen]
        optimizer = Muon(matrices, others, lr=self.learning_rate)
        rate = partial(falling_rate, steps=self.steps)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
