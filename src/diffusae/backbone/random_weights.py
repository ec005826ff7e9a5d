"""A baseline: the pipeline's denoiser with new random weights."""

from __future__ import annotations

from typing import Any

import torch

from diffusae.backbone.hookpoints import COMPONENTS, denoiser_of
from diffusae.backbone.offloading import refuse_offloaded


def with_random_denoiser(pipe: Any, *, seed: int) -> None:
    """Replace the pipeline's denoiser by one with the initial weights that its class draws from
    `seed`.

    The weights are drawn on the CPU in float32 for any device and dtype. Global random states do
    not change.
    """
    trained: Any = denoiser_of(pipe)
    refuse_offloaded(trained, "a denoiser with random weights")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        drawn = type(trained).from_config(trained.config)
    name = next(name for name in COMPONENTS if getattr(pipe, name, None) is trained)
    setattr(pipe, name, drawn.to(device=trained.device, dtype=trained.dtype).eval())
