"""The denoising error of noised latents with a block's update edited: one pass of the denoiser, one guidance branch."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from jaxtyping import Float
from torch import Tensor

from diffusae.backbone.adapters import adapter_of
from diffusae.capture.hooks import Moment, hook_blocks
from diffusae.errors import UserError
from diffusae.interventions.edits import Edit


@torch.no_grad()
def denoising_errors(
    pipe: Any,
    edit: Edit | None,
    *,
    latents: Float[Tensor, "n c h w"],
    noise: Float[Tensor, "n c h w"],
    timestep: float,
    conditions: Mapping[str, Any],
) -> Float[Tensor, " n"]:
    """The mean squared error of the denoiser's prediction, picture by picture, in what the model was trained to predict.

    Args:
        edit: of this block's update, whatever its window and conditionings; None: the model as it is.
        latents: of clean pictures, in the denoiser's scale.
        noise: standard normal, as much as is added.
        timestep: the scheduler's own value.
        conditions: what else the denoiser takes, such as the text encoder's output: of the captions for the branch `cond`,
            of the empty caption for `uncond`.
    """
    adapter = adapter_of(pipe)
    latents, noise = (each.to(device=pipe.device, dtype=adapter.denoiser.dtype) for each in (latents, noise))
    noised, wanted = noised_and_target(pipe.scheduler, latents, noise, timestep)

    def visit(_path: str, moment: Moment, before: Tensor, after: Tensor) -> Tensor:
        assert edit is not None
        return before + edit(after - before, moment.grid)

    hooks = nullcontext() if edit is None else hook_blocks(pipe, {edit.hookpoint: edit.hookpoint}, visit)
    with hooks:
        predicted = adapter.predict(conditions, noised, timestep)
    return (predicted.float() - wanted.float()).square().flatten(1).mean(dim=1).cpu()


def noised_and_target(
    scheduler: Any, latents: Tensor, noise: Tensor, timestep: float
) -> tuple[Tensor, Tensor]:
    """The denoiser's input at a timestep, and what it was trained to predict there.

    Flow matching: x_t = (1 - sigma) x_0 + sigma noise, and the velocity noise - x_0 (arXiv 2403.03206, eq. 13-14). Other
    schedulers share their noise schedule with DDIM, whatever form they step in.
    """
    if not hasattr(scheduler, "alphas_cumprod"):
        sigma = timestep / scheduler.config.num_train_timesteps
        return (1 - sigma) * latents + sigma * noise, noise - latents
    own: Any = (
        scheduler if isinstance(scheduler, DDIMScheduler) else DDIMScheduler.from_config(scheduler.config)
    )
    times = torch.full((len(latents),), int(timestep), device=latents.device)
    noised = own.add_noise(latents, noise, times)
    kind = own.config.prediction_type
    if kind == "epsilon":
        return noised, noise
    if kind == "v_prediction":
        return noised, own.get_velocity(latents, noise, times)
    if kind == "sample":
        return noised, latents
    raise UserError(
        f"the scheduler predicts {kind!r}; denoising errors know epsilon, v_prediction and sample"
    )
