"""The training of the miniature, part by part; parts resume, and are skipped when they are done."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from rich.progress import track
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from diffusae.files import atomic_path
from diffusae.miniature.annotator import (
    AnnotatorTraining,
    LabelledPictures,
    MiniatureAnnotator,
    SegmentationNetwork,
)
from diffusae.miniature.autoencoder import (
    AutoencoderTraining,
    RandomCrops,
    encode_pictures,
    reconstruct,
)
from diffusae.miniature.denoiser import (
    CaptionedLatents,
    Denoiser,
    DenoiserTraining,
    build_text_encoder,
    build_unet,
)
from diffusae.miniature.fit import fit
from diffusae.miniature.folder import save_miniature
from diffusae.miniature.pool import Pool, build_pool
from diffusae.miniature.schedule import schedule_of
from diffusae.miniature.tokenizer import build_tokenizer
from diffusae.miniature.worlds import world_of

log = logging.getLogger(__name__)


class MiniatureTraining:
    """Trains autoencoder, annotator and denoiser, in this order, and writes the pipeline folder.

    Args:
        directory: holds the pool of scenes, the checkpoints and the latents.
        world: the name of the world of the scenes.
        scenes: size of the pool.
        latent_channels: numbers of the autoencoder for a square of 4 x 4 pixels.
        schedule: the name of the noise schedule.
        skip_drop: the share of training samples for which a block of the U-Net's way up has no skip
            connections.
        autoencoder_steps, annotator_steps, denoiser_steps: training steps of each part.
        batch_size: of the denoiser; the other parts have batches of their own.
        start_from: a pipeline folder with the first weights, such as the shipped one; a part of 0
            steps is taken from it unchanged. None: random weights.
        accelerator: `cpu`, `gpu` or `auto`, as in Lightning.
        workers: processes that draw the pool.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        world: str,
        scenes: int,
        latent_channels: int,
        schedule: str,
        skip_drop: float,
        autoencoder_steps: int,
        annotator_steps: int,
        denoiser_steps: int,
        batch_size: int = 32,
        learning_rate: float = 1e-3,
        seed: int = 0,
        start_from: str | Path | None = None,
        accelerator: str = "auto",
        workers: int = 2,
    ) -> None:
        self.directory = Path(directory)
        self.world, self.scenes, self.workers = world_of(world), scenes, workers
        self.latent_channels, self.skip_drop = latent_channels, skip_drop
        self.schedule = schedule_of(schedule)
        self.start_from = None if start_from is None else Path(start_from)
        self.autoencoder_steps, self.annotator_steps = autoencoder_steps, annotator_steps
        self.denoiser_steps, self.batch_size = denoiser_steps, batch_size
        self.learning_rate, self.seed, self.accelerator = learning_rate, seed, accelerator

    def pool(self) -> Pool:
        """The training scenes, drawn on the first call."""
        return build_pool(
            self.directory / "pool", self.scenes, world=self.world, workers=self.workers
        )

    def autoencoder(self) -> Any:
        """Train the autoencoder (or load it); its scaling factor is 1 / deviation of latents."""
        pl.seed_everything(self.seed)
        training = AutoencoderTraining(
            steps=self.autoencoder_steps, latent_channels=self.latent_channels
        )
        if self.start_from is not None:
            start: Any = AutoencoderKL.from_pretrained(self.start_from / "vae")
            training.autoencoder.load_state_dict(start.state_dict())
        batch, steps = 56, self.autoencoder_steps
        crops = RandomCrops(self.pool().pictures, size=32, length=steps * batch, seed=self.seed)
        self._fit("autoencoder", training, crops, batch_size=batch, steps=steps)
        autoencoder = training.autoencoder.eval().requires_grad_(False)
        deviation = encode_pictures(autoencoder, self.pool().pictures[:512]).std()
        autoencoder.register_to_config(scaling_factor=round(1 / float(deviation), 4))
        return autoencoder

    def latents(self) -> np.ndarray:
        """The pool's scaled latents, float16 `[n, channels, 16, 16]`, mapped; encoded once."""
        path = self.directory / "latents.npy"
        if not path.exists():
            autoencoder = self.autoencoder().float()
            pictures, factor = self.pool().pictures, autoencoder.config["scaling_factor"]
            rows = [
                (encode_pictures(autoencoder, pictures[i : i + 64]) * factor).half()
                for i in track(range(0, len(pictures), 64), "encoding the pool")
            ]
            with atomic_path(path) as temporary, open(temporary, "wb") as file:
                np.save(file, torch.cat(rows).cpu().numpy(), allow_pickle=False)
        return np.load(path, mmap_mode="r", allow_pickle=False)

    def tokenizer(self) -> CLIPTokenizer:
        """The tokenizer over the world's vocabulary."""
        return build_tokenizer(self.world.vocabulary())

    def _tokens(self, tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
        return tokenizer(texts, padding="max_length", return_tensors="pt")["input_ids"]

    def denoiser(self) -> Denoiser:
        """Train text encoder and U-Net (or load them); the moving average of their weights."""
        latents, tokenizer = self.latents(), self.tokenizer()
        tokens = self._tokens(tokenizer, self.pool().captions)
        pl.seed_everything(self.seed)
        denoiser = Denoiser(build_text_encoder(tokenizer), build_unet(self.latent_channels))
        if self.start_from is not None:
            unet: Any = UNet2DConditionModel.from_pretrained(self.start_from / "unet")
            denoiser.unet.load_state_dict(unet.state_dict())
            denoiser.text_encoder = CLIPTextModel.from_pretrained(
                self.start_from / "text_encoder", dtype=torch.float32
            )
        denoiser.train()  # loaded modules are in evaluation mode
        steps, size = self.denoiser_steps, self.batch_size
        training = DenoiserTraining(
            denoiser, steps=steps, schedule=self.schedule, learning_rate=self.learning_rate
        )
        empty = self._tokens(tokenizer, [""])[0]
        data = CaptionedLatents(
            latents,
            tokens,
            empty,
            length=steps * size,
            schedule=self.schedule,
            skip_drop=self.skip_drop,
            seed=self.seed,
        )
        self._fit("denoiser", training, data, batch_size=size, steps=steps)
        averaged: Any = training.averaged.module
        return averaged.eval().requires_grad_(False)

    def annotator(self) -> SegmentationNetwork:
        """Train the annotator (or load it) on renders, half of them autoencoded."""
        pl.seed_everything(self.seed)
        training = AnnotatorTraining(self.world, steps=self.annotator_steps)
        if self.start_from is not None:
            shipped = MiniatureAnnotator(self.start_from / "annotator")
            training.network.load_state_dict(shipped.network.state_dict())
        if (steps := self.annotator_steps) > 0:
            data = LabelledPictures(
                self.pool(), self._autoencoded(), length=steps * 32, seed=self.seed
            )
            self._fit("annotator", training, data, batch_size=32, steps=steps)
        return training.network.eval().requires_grad_(False)

    def _fit(self, part: str, module: pl.LightningModule, data: Any, **length: Any) -> None:
        fit(module, data, directory=self.directory / part, accelerator=self.accelerator, **length)

    def _autoencoded(self) -> np.ndarray:
        """Reconstructions of the pool's first pictures; computed once."""
        path = self.directory / "autoencoded.npy"
        if not path.exists():
            autoencoder, pictures = self.autoencoder(), self.pool().pictures
            share = range(0, min(len(pictures), 5_000), 100)
            rows = [
                reconstruct(autoencoder, pictures[i : i + 100])
                for i in track(share, "autoencoding renders")
            ]
            with atomic_path(path) as temporary, open(temporary, "wb") as file:
                np.save(file, np.concatenate(rows), allow_pickle=False)
        return np.load(path, mmap_mode="r", allow_pickle=False)

    def assemble(self, folder: str | Path) -> None:
        """Write the pipeline folder with the parts as they are trained by now."""
        save_miniature(
            Path(folder),
            autoencoder=self.autoencoder(),
            denoiser=self.denoiser(),
            tokenizer=self.tokenizer(),
            scheduler=self.schedule.scheduler(),
            annotator=self.annotator(),
        )
