"""The studied model as the stages load, describe and call it."""

from __future__ import annotations

from typing import Any

import torch
from omegaconf import DictConfig

from diffusae.backbone.adapters import Adapter
from diffusae.backbone.compiled import compile_denoiser
from diffusae.backbone.describe import Description, describe
from diffusae.backbone.load import load_pipeline
from diffusae.backbone.schedule import timestep_at


def load_model(model: DictConfig) -> Any:
    """The pipeline of a model's configuration, on the accelerator where there is one."""
    pipe: Any = load_pipeline(
        model.source,
        dtype=getattr(torch, model.dtype),
        device="cuda" if torch.cuda.is_available() else "cpu",
        revision=model.revision,
        variant=model.variant,
        scheduler=model.scheduler,
    )
    if model.compile:
        compile_denoiser(pipe)
    return pipe


def describe_model(model: DictConfig, *, text_layers: bool = False) -> Description:
    """The model before its weights, with its text encoders' layers where they are wanted."""
    return describe(
        model.source,
        revision=model.revision,
        architecture=model.architecture,
        text_tokens=model.text_tokens,
        text_layers=text_layers,
    )


def sampling(model: DictConfig, **changed: Any) -> dict[str, Any]:
    """What `generate` is told of every picture, with some of it changed."""
    names = ("steps", "guidance", "true_guidance", "text_tokens", "height", "width")
    return {name: model[name] for name in names} | changed


def scheduler_timestep(pipe: Any, adapter: Adapter, model: DictConfig, t: float) -> float:
    """The scheduler's own value at time t of one of the model's pictures."""
    unit = pipe.vae_scale_factor * adapter.patch
    positions = (model.height // unit) * (model.width // unit)
    return timestep_at(
        pipe.scheduler,
        model.steps,
        t,
        schedule=lambda scheduler, steps: adapter.schedule(scheduler, steps, positions),
    )
