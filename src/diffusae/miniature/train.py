"""The training of the miniature, part by part; each part resumes from its checkpoint and is skipped
when done.
"""

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
from diffusae.miniature.captions import vocabulary
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
from diffusae.miniature.tokenizer import build_tokenizer

log = logging.getLogger(__name__)


class MiniatureTraining:
    """Trains autoencoder, annotator and denoiser in `directory`, in this order, and assembles the
    pipeline folder.

    Args:
        directory: holds the pool of scenes, the checkpoints and the latents.
        scenes: how many scenes the pool holds.
        autoencoder_steps, annotator_steps, denoiser_steps: training steps of each part.
        batch_size: of the denoiser; the other parts have batches of their own.
        start_from: a pipeline folder whose weights the parts begin with, such as the shipped one; a
            part of 0 steps is then taken as it is. None: random weights.
        accelerator: `cpu`, `gpu` or `auto`, as Lightning names them.
        workers: processes that draw the pool.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        scenes: int,
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
        self.scenes, self.workers = scenes, workers
        self.start_from = None if start_from is None else Path(start_from)
        self.autoencoder_steps, self.annotator_steps, self.denoiser_steps = (
            autoencoder_steps,
            annotator_steps,
            denoiser_steps,
        )
        self.batch_size, self.learning_rate, self.seed, self.accelerator = (
            batch_size,
            learning_rate,
            seed,
            accelerator,
        )

    def pool(self) -> Pool:
        """The training scenes, drawn on the first call."""
        return build_pool(self.directory / "pool", self.scenes, workers=self.workers)

    def autoencoder(self) -> Any:
        """Train the autoencoder (or load it) and set its scaling factor to one over the latents'
        deviation.
        """
        pl.seed_everything(self.seed)
        training = AutoencoderTraining(steps=self.autoencoder_steps)
        if self.start_from is not None:
            start: Any = AutoencoderKL.from_pretrained(self.start_from / "vae")
            training.autoencoder.load_state_dict(start.state_dict())
        batch = 56
        crops = RandomCrops(
            self.pool().pictures, size=32, length=self.autoencoder_steps * batch, seed=self.seed
        )
        directory = self.directory / "autoencoder"
        fit(
            training,
            crops,
            batch_size=batch,
            steps=self.autoencoder_steps,
            directory=directory,
            accelerator=self.accelerator,
        )
        autoencoder = training.autoencoder.eval().requires_grad_(False)
        deviation = encode_pictures(autoencoder, self.pool().pictures[:512]).std()
        autoencoder.register_to_config(scaling_factor=round(1 / float(deviation), 4))
        return autoencoder

    def latents(self) -> np.ndarray:
        """The pool's scaled latents, float16 `[n, 4, 16, 16]`, memory-mapped; encoded on the first
        call.
        """
        path = self.directory / "latents.npy"
        if not path.exists():
            autoencoder = self.autoencoder().float()
            pictures = self.pool().pictures
            rows = [
                (
                    encode_pictures(autoencoder, pictures[i : i + 64])
                    * autoencoder.config["scaling_factor"]
                ).half()
                for i in track(range(0, len(pictures), 64), "encoding the pool")
            ]
            with atomic_path(path) as temporary, open(temporary, "wb") as file:
                np.save(file, torch.cat(rows).cpu().numpy(), allow_pickle=False)
        return np.load(path, mmap_mode="r", allow_pickle=False)

    def tokenizer(self) -> CLIPTokenizer:
        """The tokenizer over the world's vocabulary."""
        return build_tokenizer(vocabulary())

    def _tokens(self, tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
        return tokenizer(texts, padding="max_length", return_tensors="pt")["input_ids"]

    def denoiser(self) -> Denoiser:
        """Train text encoder and U-Net (or load them); what comes back is the moving average of
        their weights.
        """
        latents, tokenizer = self.latents(), self.tokenizer()
        tokens = self._tokens(tokenizer, self.pool().captions)
        pl.seed_everything(self.seed)
        denoiser = Denoiser(build_text_encoder(tokenizer), build_unet())
        if self.start_from is not None:
            unet: Any = UNet2DConditionModel.from_pretrained(self.start_from / "unet")
            denoiser.unet.load_state_dict(unet.state_dict())
            denoiser.text_encoder = CLIPTextModel.from_pretrained(
                self.start_from / "text_encoder", dtype=torch.float32
            )
        denoiser.train()  # what is loaded comes in evaluation mode
        training = DenoiserTraining(
            denoiser, steps=self.denoiser_steps, learning_rate=self.learning_rate
        )
        data = CaptionedLatents(
            latents,
            tokens,
            self._tokens(tokenizer, [""])[0],
            length=self.denoiser_steps * self.batch_size,
            seed=self.seed,
        )
        fit(
            training,
            data,
            batch_size=self.batch_size,
            steps=self.denoiser_steps,
            directory=self.directory / "denoiser",
            accelerator=self.accelerator,
        )
        averaged: Any = training.averaged.module
        return averaged.eval().requires_grad_(False)

    def annotator(self) -> SegmentationNetwork:
        """Train the annotator (or load it), half on renders as drawn and half on autoencoded
        ones.
        """
        pl.seed_everything(self.seed)
        training = AnnotatorTraining(steps=self.annotator_steps)
        if self.start_from is not None:
            shipped = MiniatureAnnotator(self.start_from / "annotator")
            training.network.load_state_dict(shipped.network.state_dict())
        if self.annotator_steps > 0:
            data = LabelledPictures(
                self.pool(), self._autoencoded(), length=self.annotator_steps * 32, seed=self.seed
            )
            fit(
                training,
                data,
                batch_size=32,
                steps=self.annotator_steps,
                directory=self.directory / "annotator",
                accelerator=self.accelerator,
            )
        return training.network.eval().requires_grad_(False)

    def _autoencoded(self) -> np.ndarray:
        """The pool's first pictures as the autoencoder gives them back; computed on the first
        call.
        """
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
        """Write the pipeline folder with whatever the parts are trained to by now."""
        save_miniature(
            Path(folder),
            autoencoder=self.autoencoder(),
            denoiser=self.denoiser(),
            tokenizer=self.tokenizer(),
            annotator=self.annotator(),
        )
