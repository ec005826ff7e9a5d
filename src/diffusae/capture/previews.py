"""What a generation will show, seen after every step of a running pipeline call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from diffusae.backbone.branches import replace_method
from diffusae.backbone.families.table import adapter_of
from diffusae.backbone.noising import is_flow_matching
from diffusae.capture.generate import to_uint8

Clean = Callable[[], Tensor]
"""Gives the predicted clean latents, in the pipeline's own form."""
Watch = Callable[[int, Clean], None]
"""watch(index of the step, the latents that it leads to)."""


@contextmanager
def watched_steps(pipe: Any, watch: Watch) -> Iterator[None]:
    """Call `watch` after every step of the scheduler in the pipeline calls inside.

    What `watch` raises ends the call; hooks of outer contexts are then removed as after any error.
    The scheduler's results are passed on as they are.
    """
    with ExitStack() as stack:
        scheduler, count = pipe.scheduler, 0

        def around(step: Callable[..., Any]) -> Callable[..., Any]:
            def watched(
                output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kw: Any
            ) -> Any:
                nonlocal count
                place = getattr(scheduler, "step_index", None)  # before the step counts it up
                result = step(output, timestep, sample, *args, **kw)
                watch(count, lambda: _clean(scheduler, result, output, sample, place))
                count += 1
                return result

            return watched

        replace_method(stack, scheduler, "step", around)
        yield


def _clean(
    scheduler: Any, result: Any, output: Tensor, sample: Tensor, place: int | None
) -> Tensor:
    """The clean latents that a step predicts: DDIM and its kin return them, and in flow matching
    they are x_t - sigma_t v. Of another scheduler, the step's own result.
    """
    if is_flow_matching(scheduler):
        sigma = scheduler.sigmas[place or 0].to(sample.device)
        return sample.float() - sigma * output.float()
    own = list(result if isinstance(result, tuple) else result.values())
    return own[1] if len(own) > 1 else own[0]


@torch.no_grad()
def decoded(
    pipe: Any, latents: Tensor, *, height: int, width: int
) -> UInt8[np.ndarray, "n height width 3"]:
    """Latents as pictures, by the pipeline's own decoder.

    Args:
        latents: in the pipeline's own form.
        height, width: of the pictures, in pixels.
    """
    vae, scale = pipe.vae, pipe.vae_scale_factor
    latents = adapter_of(pipe).unpack(latents, height // scale, width // scale)
    shift = getattr(vae.config, "shift_factor", None) or 0.0
    own = vae.dtype
    upcast = own == torch.float16 and getattr(vae.config, "force_upcast", False)
    if upcast:  # it overflows in float16; the way back changes no weight
        vae.to(torch.float32)
    try:
        pictures = vae.decode((latents / vae.config.scaling_factor + shift).to(vae.dtype))
    finally:
        if upcast:
            vae.to(own)
    return to_uint8((pictures.sample.float() / 2 + 0.5).clamp(0, 1))
