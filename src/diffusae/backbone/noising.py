"""Adding noise to clean latents, as a pipeline's own scheduler does at one of its timesteps."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


def noised(
    scheduler: Any,
    latents: Float[Tensor, "n c h w"],
    noise: Float[Tensor, "n c h w"],
    timestep: float,
    *,
    sigma: float | None = None,
) -> Float[Tensor, "n c h w"]:
    """`latents` with noise, in the form that the denoiser was trained on at this timestep.

    Flow matching: x_t = (1 - sigma) x_0 + sigma noise (arXiv 2403.03206, eq. 13). Others, as DDIM:
    x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) noise.

    Args:
        sigma: the share of noise in flow matching (`Adapter.sigma`). None: the timestep's share of
            all training timesteps.
    """
    if is_flow_matching(scheduler):
        share = timestep / scheduler.config.num_train_timesteps if sigma is None else sigma
        return (1 - share) * latents + share * noise
    times = torch.full((len(latents),), int(timestep), device=latents.device)
    return as_ddim(scheduler).add_noise(latents, noise, times)


def is_flow_matching(scheduler: Any) -> bool:
    """Whether a scheduler mixes picture and noise linearly (flow matching). Some have both kinds of
    noise, and a setting chooses (Sana's DPM-Solver++, UniPC of Wan and HiDream)."""
    return not hasattr(scheduler, "alphas_cumprod") or bool(scheduler.config.get("use_flow_sigmas"))


def is_trigonometric(scheduler: Any) -> bool:
    """Whether a scheduler's times are angles (TrigFlow, arXiv 2410.11081)."""
    config = getattr(scheduler, "config", None) or {}
    return config.get("prediction_type") == "trigflow"


def as_ddim(scheduler: Any) -> Any:
    """A DDIM scheduler on the noise schedule of a scheduler that is not flow matching."""
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    is_ddim = isinstance(scheduler, DDIMScheduler)
    return scheduler if is_ddim else DDIMScheduler.from_config(scheduler.config)
