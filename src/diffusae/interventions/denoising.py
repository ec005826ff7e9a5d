"""The denoising error of noised latents while a block's vectors are edited, in one pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from diffusae.backbone.families.table import adapter_of
from diffusae.backbone.hookpoints import execution_device
from diffusae.backbone.noising import as_ddim, is_flow_matching, noised
from diffusae.capture.hooks import Moment, hook_blocks
from diffusae.errors import UserError
from diffusae.interventions.edits import Edit


@torch.no_grad()
def denoising_errors(
    pipe: Any,
    edit: Edit | None,
    *,
    watching: Sequence[Edit] = (),
    latents: Float[Tensor, "n c h w"],
    noise: Float[Tensor, "n c h w"],
    timestep: float,
    conditions: Mapping[str, Any],
) -> Float[Tensor, " n"]:
    """The mean squared error of the denoiser's prediction for each picture, on the model's device.

    The error is in the quantity that the model was trained to predict. One pass runs one guidance
    branch.

    Args:
        edit: of a hookpoint's vectors; its window and conditionings are ignored. None: no edit.
        watching: edits that look at other hookpoints for it (`Edit.watches`).
        latents: of clean pictures, in the denoiser's scale.
        noise: standard normal, not yet scaled.
        timestep: the scheduler's own value.
        conditions: the denoiser's other inputs, such as the text encoder's output: of the captions
            for the branch `cond`, of the empty caption for `uncond`.
    """
    adapter = adapter_of(pipe)
    latents, noise = (
        tensor.to(device=execution_device(pipe), dtype=adapter.denoiser.dtype)
        for tensor in (latents, noise)
    )
    positions = latents[0, 0].numel() // adapter.patch**2
    sigma = adapter.sigma(pipe.scheduler, timestep, positions)
    seen, wanted = _noised_and_target(pipe.scheduler, latents, noise, timestep, sigma)

    edits = [] if edit is None else [*watching, edit]

    def visit(name: str, moment: Moment, vectors: Tensor) -> Tensor | None:
        added = None
        for one in edits:
            if str(one.hookpoint) == name:
                change = one(vectors, moment.grid) - vectors
                added = added if one.watches else change
        return added

    with ExitStack() as stack:
        if edits:
            places = {str(one.hookpoint): one.hookpoint for one in edits}
            stack.enter_context(
                hook_blocks(pipe, places, visit, layout=("cond",), due=lambda _clock: places)
            )
        predicted = adapter.predict(conditions, seen, timestep)
    return (predicted.float() - wanted.float()).square().flatten(1).mean(dim=1)


def _noised_and_target(
    scheduler: Any, latents: Tensor, noise: Tensor, timestep: float, sigma: float | None
) -> tuple[Tensor, Tensor]:
    """The denoiser's input at a timestep, and its training target.

    The target of flow matching is the velocity noise - x_0 (arXiv 2403.03206, eq. 14).
    """
    seen = noised(scheduler, latents, noise, timestep, sigma=sigma)
    if is_flow_matching(scheduler):
        return seen, noise - latents
    own = as_ddim(scheduler)
    kind = own.config.prediction_type
    if kind == "epsilon":
        return seen, noise
    if kind == "v_prediction":
        times = torch.full((len(latents),), int(timestep), device=latents.device)
        return seen, own.get_velocity(latents, noise, times)
    if kind == "sample":
        return seen, latents
    raise UserError(
        f"the scheduler predicts {kind!r}; denoising errors know epsilon, v_prediction and sample"
    )
