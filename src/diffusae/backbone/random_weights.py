"""A pipeline whose denoiser knows nothing: the same architecture with weights drawn anew, as a
baseline."""

from __future__ import annotations

from typing import Any

import torch

from diffusae.backbone.hookpoints import COMPONENTS, denoiser_of


def with_random_denoiser(pipe: Any, *, seed: int) -> None:
    """Put a denoiser in the place of the pipeline's own, with the initial weights that its class
    draws from `seed`.

    Drawn on the CPU in float32, whatever the pipeline's device and dtype; global randomness is
    untouched.
    """
    trained: Any = denoiser_of(pipe)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        drawn = type(trained).from_config(trained.config)
    name = next(name for name in COMPONENTS if getattr(pipe, name, None) is trained)
    setattr(pipe, name, drawn.to(device=trained.device, dtype=trained.dtype).eval())
