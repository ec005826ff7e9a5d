"""The miniature on disk: a standard folder of a pipeline of diffusers, and the annotator in it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import PixArtAlphaPipeline, StableDiffusionPipeline

from diffusae.miniature.annotator import SegmentationNetwork, save_annotator
from diffusae.miniature.denoiser import Denoiser

PIPELINES: dict[str, tuple[Any, dict[str, Any]]] = {
    "unet": (
        StableDiffusionPipeline,
        {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False},
    ),
    "transformer": (PixArtAlphaPipeline, {}),
}
"""Name of the denoiser in the folder -> the pipeline's class, and its other parts."""


def save_miniature(
    folder: Path,
    *,
    autoencoder: Any,
    denoiser: Denoiser,
    tokenizer: Any,
    scheduler: Any,
    annotator: SegmentationNetwork,
) -> None:
    """Write a folder for `DiffusionPipeline.from_pretrained`, as safetensors.

    The denoiser and the autoencoder are stored in float16 (diffusers loads them as float32). The
    text encoder stays float32: transformers loads a model in the type of its file, and types would
    mix.
    """
    component = denoiser.component
    build, others = PIPELINES[component]
    pipeline = build(
        vae=autoencoder,
        text_encoder=denoiser.text_encoder,
        tokenizer=tokenizer,
        scheduler=scheduler,
        **{component: denoiser.network},
        **others,
    )
    staging = folder.with_name(folder.name + ".partial")
    shutil.rmtree(staging, ignore_errors=True)
    pipeline.save_pretrained(staging, safe_serialization=True)
    halves: list[tuple[str, Any]] = [(component, denoiser.network), ("vae", autoencoder)]
    for name, part in halves:
        part.to(torch.float16).save_pretrained(staging / name, safe_serialization=True)
        part.to(torch.float32)
    save_annotator(annotator, staging / "annotator")
    shutil.rmtree(folder, ignore_errors=True)
    staging.rename(folder)


def size_in_bytes(folder: Path) -> int:
    """The size of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
