"""The training of the miniature, part by part; parts resume, and are skipped when they are done."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from diffusers import AutoencoderKL
from rich.progress import track
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from diffusae.errors import UserError
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
from diffusae.miniature.denoiser import CaptionedLatents, Denoiser, DenoiserTraining
from diffusae.miniature.fit import fit, steps_done
from diffusae.miniature.folder import save_miniature
from diffusae.miniature.pool import Pool, build_pool
from diffusae.miniature.schedule import SCHEDULES
from diffusae.miniature.settings import TrainingSettings
from diffusae.miniature.tokenizer import build_tokenizer
from diffusae.miniature.worlds import world_of

log = logging.getLogger(__name__)


class MiniatureTraining:
    """Trains autoencoder, annotator and denoiser, in this order, and writes the pipeline folder.

    Args:
        directory: holds the pool of scenes, the checkpoints and the latents; with
            `training.parts_from` the checkpoint of the denoiser alone.
    """

    def __init__(self, directory: str | Path, settings: TrainingSettings) -> None:
        self.directory, self.settings = Path(directory), settings
        self.parts = Path(settings.parts_from or directory)
        self.world, self.schedule = world_of(settings.world), SCHEDULES[settings.schedule]
        self.start_from = None if settings.start_from is None else Path(settings.start_from)

    def pool(self) -> Pool:
        """The training scenes, drawn on the first call."""
        settings = self.settings
        place, workers = self.parts / "pool", settings.workers
        if settings.parts_from is not None and not place.exists():
            raise self._unfinished("autoencoder")
        return build_pool(place, settings.scenes, world=self.world, workers=workers)

    def autoencoder(self) -> Any:
        """Train the autoencoder (or load it); its scaling factor is 1 / deviation of latents."""
        batch, steps, seed = 56, self.settings.autoencoder_steps, self.settings.seed
        pl.seed_everything(seed)
        channels = self.settings.latent_channels
        training = AutoencoderTraining(steps=steps, latent_channels=channels)
        if self.start_from is not None:
            start: Any = AutoencoderKL.from_pretrained(self.start_from / "vae")
            training.autoencoder.load_state_dict(start.state_dict())
        crops = RandomCrops(self.pool().pictures, size=32, length=steps * batch, seed=seed)
        self._fit("autoencoder", training, crops, batch_size=batch, steps=steps)
        autoencoder = training.autoencoder.eval().requires_grad_(False)
        deviation = encode_pictures(autoencoder, self.pool().pictures[:512]).std()
        autoencoder.register_to_config(scaling_factor=round(1 / float(deviation), 4))
        return autoencoder

    def latents(self) -> np.ndarray:
        """The pool's scaled latents, float16 `[n, channels, 16, 16]`, mapped; encoded once."""
        path = self.parts / "latents.npy"
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
        """The tokenizer of the first weights, or one over the world's vocabulary."""
        if self.start_from is not None:
            return CLIPTokenizer.from_pretrained(self.start_from / "tokenizer")
        return build_tokenizer(self.world.vocabulary())

    def _tokens(self, tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
        return tokenizer(texts, padding="max_length", return_tensors="pt")["input_ids"]

    def denoiser(self) -> Denoiser:
        """Train text encoder and denoiser (or load them); the moving average of their weights."""
        settings, latents, tokenizer = self.settings, self.latents(), self.tokenizer()
        tokens = self._tokens(tokenizer, self.pool().captions)
        pl.seed_everything(settings.seed)
        denoiser = Denoiser.new(settings.denoiser, tokenizer, settings.latent_channels)
        if self.start_from is not None and (self.start_from / denoiser.component).is_dir():
            start: Any = type(denoiser.network).from_pretrained(
                self.start_from / denoiser.component
            )
            denoiser.network.load_state_dict(start.state_dict())
            denoiser.text_encoder = CLIPTextModel.from_pretrained(
                self.start_from / "text_encoder", dtype=torch.float32
            )
        elif self.start_from is not None:
            log.info("%s has another kind of denoiser: this one is new", self.start_from)
        denoiser.train()  # loaded modules are in evaluation mode
        steps, size = settings.denoiser_steps, settings.batch_size
        training = DenoiserTraining(
            denoiser, steps=steps, schedule=self.schedule, learning_rate=settings.learning_rate
        )
        empty = self._tokens(tokenizer, [""])[0]
        data = CaptionedLatents(
            latents,
            tokens,
            empty,
            length=steps * size,
            schedule=self.schedule,
            skip_drop=settings.skip_drop,
            seed=settings.seed,
        )
        self._fit("denoiser", training, data, batch_size=size, steps=steps)
        averaged: Any = training.averaged.module
        return averaged.eval().requires_grad_(False)

    def annotator(self) -> SegmentationNetwork:
        """Train the annotator (or load it) on renders, half of them autoencoded."""
        steps, seed = self.settings.annotator_steps, self.settings.seed
        pl.seed_everything(seed)
        training = AnnotatorTraining(self.world, steps=steps)
        if self.start_from is not None:
            shipped = MiniatureAnnotator(self.start_from / "annotator")
            training.network.load_state_dict(shipped.network.state_dict())
        if steps > 0:
            data = LabelledPictures(self.pool(), self._autoencoded(), length=steps * 32, seed=seed)
            self._fit("annotator", training, data, batch_size=32, steps=steps)
        return training.network.eval().requires_grad_(False)

    def _fit(self, part: str, module: pl.LightningModule, data: Any, **length: Any) -> None:
        place, accelerator = self.parts / part, self.settings.accelerator
        if part == "denoiser":
            place = self.directory / part
        elif self.settings.parts_from is not None and length["steps"] > steps_done(place):
            raise self._unfinished(part)
        fit(module, data, directory=place, accelerator=accelerator, **length)

    def _unfinished(self, part: str) -> UserError:
        return UserError(
            f"training.parts_from={self.settings.parts_from} has no finished {part}; train it there"
            f" first: diffusae miniature world={self.world.name} part={part} directory={self.parts}"
        )

    def _autoencoded(self) -> np.ndarray:
        """Reconstructions of the pool's first pictures; computed once."""
        path = self.parts / "autoencoded.npy"
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
