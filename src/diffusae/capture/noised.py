"""Updates or outputs of blocks for given pictures: with noise, in one pass, without generation.

Revelio (arXiv 2411.16725, section 3) takes features of real pictures this way, with an empty
prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from diffusae.backbone.branches import planned_branches
from diffusae.backbone.families.table import adapter_of
from diffusae.backbone.hookpoints import execution_device
from diffusae.backbone.noising import noised
from diffusae.capture.conditions import conditions
from diffusae.capture.generate import first_latents
from diffusae.capture.hooks import Moment, hook_blocks
from diffusae.capture.offload import Offload
from diffusae.errors import UserError

_SOME_GUIDANCE = 2.0
"""A scale at which pipelines run their unconditional branch. Its arguments do not depend on it."""

Given = Callable[[int], Mapping[str, Any]]
"""n -> the denoiser's other arguments for n pictures, such as the text encoder's output."""


def prompted(pipe: Any, prompt: str, **asked: Any) -> Given:
    """The denoiser's other arguments for any number of pictures under one prompt.

    `asked` goes to `conditions`. An empty prompt means the unconditional branch of a guided call,
    which some pipelines do not encode as an empty caption (Stable Diffusion XL: zeros). Models
    without this branch get the empty caption.
    """
    adapter = adapter_of(pipe)
    branch = "cond"
    if not prompt:
        name = "true_guidance" if adapter.layout == "two_passes" else "guidance"
        asked = asked | {name: max(asked.get(name) or 0.0, _SOME_GUIDANCE)}
        scales = {"true_guidance": asked.get("true_guidance"), "layout": adapter.layout}
        if "uncond" in planned_branches(adapter.denoiser, asked["guidance"], **scales):
            branch = "uncond"
    known: dict[int, Mapping[str, Any]] = {}

    def given(count: int) -> Mapping[str, Any]:
        if count not in known:
            known[count] = conditions(pipe, [prompt] * count, branch, **asked)
        return known[count]

    return given


@torch.no_grad()
def capture_noised(
    pipe: Any,
    latents: Float[Tensor, "n c h w"],
    seeds: Sequence[int],
    given: Given,
    *,
    hookpoints: Mapping[str, str | int],
    timesteps: Collection[float],
    pooled: bool = False,
) -> dict[tuple[str, float], Float[Tensor, "n positions d_in"]]:
    """{(block, timestep): vectors of the hookpoint}, on the CPU in the model's dtype (pooled:
    float32).

    Args:
        latents: latents of clean pictures, in the denoiser's scale (`encode_pictures`).
        seeds: one per picture, for its noise. Noise is drawn on the CPU in float32 and is the same
            at every timestep.
        given: the denoiser's other arguments.
        timesteps: the scheduler's own values.
        pooled: record the mean over positions, as one position.
    """
    adapter = adapter_of(pipe)
    count, *shape = latents.shape
    if len(seeds) != count:
        raise UserError(f"{count} pictures have {len(seeds)} seeds; give one seed a picture")
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    noise = first_latents(generators, channels=shape[0], height=shape[1], width=shape[2])
    place: Any = {"device": execution_device(pipe), "dtype": adapter.denoiser.dtype}
    latents, noise = latents.to(**place), noise.to(**place)
    recorded: dict[tuple[str, float], Tensor] = {}
    offload = Offload()
    at: list[float] = []

    def visit(block: str, _moment: Moment, vectors: Tensor) -> None:
        if pooled:
            vectors = vectors.float().mean(dim=1, keepdim=True)
        recorded[block, at[-1]] = offload(vectors, vectors.dtype)

    others = given(count)
    with hook_blocks(pipe, hookpoints, visit, layout=("cond",), due=lambda _clock: hookpoints):
        for timestep in timesteps:
            at.append(timestep)
            adapter.predict(others, noised(pipe.scheduler, latents, noise, timestep), timestep)
    offload.wait()
    return recorded
