"""The miniature on disk: a standard `StableDiffusionPipeline` folder, and the annotator in it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline

from diffusae.miniature.annotator import SegmentationNetwork, save_annotator
from diffusae.miniature.denoiser import Denoiser


def save_miniature(
    folder: Path,
    *,
    autoencoder: Any,
    denoiser: Denoiser,
    tokenizer: Any,
    scheduler: Any,
    annotator: SegmentationNetwork,
) -> None:
    """Write a folder for `StableDiffusionPipeline.from_pretrained`, as safetensors.

    The U-Net and the autoencoder are stored in float16 (diffusers loads them as float32). The text
    encoder stays float32: transformers loads a model in the type of its file, and types would mix.
    """
    build: Any = StableDiffusionPipeline
    pipeline = build(
        vae=autoencoder,
        text_encoder=denoiser.text_encoder,
        tokenizer=tokenizer,
        unet=denoiser.unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    staging = folder.with_name(folder.name + ".partial")
    shutil.rmtree(staging, ignore_errors=True)
    pipeline.save_pretrained(staging, safe_serialization=True)
    halves: list[tuple[str, Any]] = [("unet", denoiser.unet), ("vae", autoencoder)]
    for name, part in halves:
        part.to(torch.float16).save_pretrained(staging / name, safe_serialization=True)
        part.to(torch.float32)
    save_annotator(annotator, staging / "annotator")
    shutil.rmtree(folder, ignore_errors=True)
    staging.rename(folder)


def size_in_bytes(folder: Path) -> int:
    """The size of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
