"""The denoiser's arguments besides latents and time, taken from a pipeline's first denoiser
call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from diffusae.backbone.branches import rows_of
from diffusae.backbone.families.table import adapter_of
from diffusae.capture.clock import running_clock
from diffusae.capture.generate import call_options
from diffusae.errors import refuse_text


class _Taken(Exception):
    """Ends a pipeline's call after its arguments were taken."""


@torch.no_grad()
def conditions(
    pipe: Any,
    prompts: Sequence[str],
    conditioning: str,
    *,
    guidance: float,
    true_guidance: float | None = None,
    text_tokens: int | None = None,
    height: int,
    width: int,
    given: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The denoiser's arguments for one branch of guidance: text states, sizes, masks, positions,
    ...

    The pipeline is called as for a picture and stopped at its first pass of the branch. So any kind
    of pipeline prepares them itself.

    Args:
        given: further arguments of the pipeline's call, such as the number of frames of a video.

    Raises:
        UserError: the call does not run this branch.
    """
    refuse_text("prompts", prompts)
    adapter = adapter_of(pipe)
    taken: dict[str, Any] = {}
    with running_clock(pipe) as clock:

        def take(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if conditioning in clock.branches():
                given = adapter.given(args, kwargs)
                batch = adapter.rows(given)
                rows = rows_of(conditioning, batch, clock.branches())
                taken.update(adapter.taken(given, rows, batch))
                raise _Taken

        handle = adapter.denoiser.register_forward_pre_hook(take, with_kwargs=True)
        try:
            pipe(
                prompt=list(prompts),
                num_inference_steps=2,
                height=height,
                width=width,
                output_type="latent",
                **adapter.guidance(guidance, true_guidance, len(prompts)),
                **call_options(pipe, text_tokens=text_tokens, size=(height, width)),
                **(given or {}),
            )
        except _Taken:
            pass
        finally:
            handle.remove()
    if not taken:
        rows_of(conditioning, len(prompts), ("cond",))  # explains what is missing
    return {name: value for name, value in taken.items() if name not in adapter.varying}
