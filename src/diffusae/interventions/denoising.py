"""The denoising error of noised latents with a block's update edited: one pass of the denoiser, one guidance branch."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from diffusae.backbone.hookpoints import denoiser_of
from diffusae.capture.hooks import hook_blocks, to_positions
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
    states: Float[Tensor, "n tokens d"],
) -> Float[Tensor, " n"]:
    """The mean squared error of the denoiser's prediction, picture by picture, in what the model was trained to predict.

    Args:
        edit: of this block's update, whatever its window and conditionings; None: the model as it is.
        latents: of clean pictures, in the denoiser's scale.
        noise: standard normal, as much as is added.
        timestep: the scheduler's own value.
        states: the text encoder's output: of the captions for the branch `cond`, of the empty caption for `uncond`.
    """
    denoiser: Any = denoiser_of(pipe)
    latents, noise, states = (
        each.to(device=pipe.device, dtype=denoiser.dtype) for each in (latents, noise, states)
    )
    times = torch.full((len(latents),), int(timestep), device=pipe.device)
    noised = pipe.scheduler.add_noise(latents, noise, times)
    wanted = _target(pipe.scheduler, latents, noise, times)

    def visit(_path: str, _timestep: float, before: Tensor, after: Tensor) -> Tensor:
        assert edit is not None
        grid = (after.shape[-2], after.shape[-1])
        return before + edit(to_positions(after - before), grid).transpose(1, 2).unflatten(2, grid)

    hooks = nullcontext() if edit is None else hook_blocks(pipe, {edit.hookpoint: edit.hookpoint}, visit)
    with hooks:
        predicted = denoiser(noised, times, encoder_hidden_states=states, return_dict=False)[0]
    return (predicted.float() - wanted.float()).square().flatten(1).mean(dim=1).cpu()


def _target(scheduler: Any, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        return noise
    if kind == "v_prediction":
        return scheduler.get_velocity(latents, noise, times)
    if kind == "sample":
        return latents
    raise UserError(
        f"the scheduler predicts {kind!r}; denoising errors know epsilon, v_prediction and sample"
    )
