"""One batch of pictures from prompts and seeds, with the updates that were recorded on the way."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from diffusae.backbone.branches import CONDITIONINGS, check_conditionings, planned_branches
from diffusae.backbone.hookpoints import denoiser_of
from diffusae.capture.hooks import CapturedUpdates, UpdateKey, capture_updates
from diffusae.errors import UserError, together


@dataclass(frozen=True)
class Generation:
    """`n` pictures, in the order of their prompts."""

    images: UInt8[np.ndarray, "n height width 3"] | None
    """None when nothing was decoded."""
    latents: Float[Tensor, "n channels h w"]
    """The final latents, float32 on the CPU."""
    updates: dict[UpdateKey, Float[Tensor, "n positions d_in"]]
    grids: dict[str, tuple[int, int]]
    """{block: (h, w)}; positions are row-major over it."""
    nonfinite: dict[int, list[str]]
    """{picture: where it held a NaN or an infinity}: {3: ["mid at timestep 501, cond", "final latents"]}."""


def generate(
    pipe: Any,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    steps: int,
    guidance: float,
    hookpoints: Mapping[str, str] | None = None,
    timesteps: Collection[float] = (),
    conditionings: Collection[str] = CONDITIONINGS,
    decode: bool = True,
    height: int | None = None,
    width: int | None = None,
    update_dtype: torch.dtype | None = None,
    progress: Callable[[int], None] | None = None,
) -> Generation:
    """Generate one picture a prompt, as one batch through the unmodified `pipe(...)`, and record updates.

    Each picture has its own generator, seeded by its seed, for its first latent and for whatever noise the
    scheduler draws: a picture depends neither on its neighbours nor on its place, except that sums over
    another batch size may be rounded differently (about 1e-6, relative, in float32). The first latents are
    drawn on the CPU in float32, so they are the same on every device.

    `hookpoints` is {block: module path}, `timesteps` are the scheduler's own values; without either nothing
    is recorded. `height` and `width` in pixels default to the model's size. Without `decode` the decoder does
    not run. `progress` is called with the index of each finished step. Out of memory becomes a `UserError`
    with the batch size to try.
    """
    faults = []
    if not prompts:
        faults.append("there is no prompt; give at least one")
    if len(prompts) != len(seeds):
        faults.append(f"{len(prompts)} prompts have {len(seeds)} seeds; give one seed a prompt")
    if any(seed < 0 for seed in seeds):
        faults.append(f"seed {min(seeds)} is negative; seeds count from 0")
    if steps < 1:
        faults.append(f"steps={steps} is below 1; a run takes at least one step")
    for name, pixels in (("height", height), ("width", width)):
        if pixels is not None and (pixels < 8 or pixels % 8):
            faults.append(
                f"{name}={pixels} is not a multiple of 8; give one, such as {max(8, pixels // 8 * 8)}"
            )
    if bool(hookpoints) != bool(timesteps):
        faults.append(
            "recording needs both hookpoints and timesteps, and one of them is empty; give both or neither"
        )
    together(faults)
    denoiser: Any = denoiser_of(pipe)
    if hookpoints:
        check_conditionings(conditionings, planned_branches(denoiser, guidance))
    size = denoiser.config.sample_size
    default_height, default_width = (size, size) if isinstance(size, int) else size
    scale = pipe.vae_scale_factor
    height, width = height or default_height * scale, width or default_width * scale
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    latents = first_latents(
        generators,
        channels=denoiser.config.in_channels,
        height=height // scale,
        width=width // scale,
    )
    final: list[Tensor] = []

    def on_step_end(_pipe: Any, index: int, _timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        final[:] = [tensors["latents"]]
        if progress is not None:
            progress(index)
        return {}

    recording = (
        capture_updates(pipe, hookpoints, timesteps, conditionings=conditionings, dtype=update_dtype)
        if hookpoints
        else nullcontext(CapturedUpdates())
    )
    try:
        with recording as captured:
            output = pipe(
                prompt=list(prompts),
                height=height,
                width=width,
                num_inference_steps=steps,
                guidance_scale=guidance,
                generator=generators,
                latents=latents.to(device=pipe.device, dtype=denoiser.dtype),
                output_type="np" if decode else "latent",
                callback_on_step_end=on_step_end,
            )
    except torch.OutOfMemoryError as error:
        remedy = (
            f"try a batch size of {len(prompts) // 2}"
            if len(prompts) > 1
            else "use a smaller picture or float16"
        )
        raise UserError(
            f"out of memory with {len(prompts)} pictures at once on {pipe.device}; {remedy}"
        ) from error
    for (block, timestep, _), update in captured.updates.items():
        if len(update) != len(prompts):
            raise UserError(
                f"{block} ran {len(update) // len(prompts)} times at timestep {timestep:g}: this scheduler "
                f"({type(pipe.scheduler).__name__}) calls the denoiser more often than once a step; use DDIM"
            )
    places = {
        f"{block} at timestep {t:g}, {name}": update for (block, t, name), update in captured.updates.items()
    }
    places["final latents"] = latents = final[0].float().cpu()
    if decode:
        places["decoded picture"] = torch.from_numpy(output.images)
    return Generation(
        images=to_uint8(output.images) if decode else None,
        latents=latents,
        updates=captured.updates,
        grids=captured.grids,
        nonfinite=nonfinite_places(places),
    )


def first_latents(
    generators: Sequence[torch.Generator], *, channels: int, height: int, width: int
) -> Float[Tensor, "n channels height width"]:
    """Standard normal latents, float32 on the CPU, each drawn from its own generator."""
    shape = (channels, height, width)
    return torch.stack(
        [torch.randn(shape, generator=generator, dtype=torch.float32) for generator in generators]
    )


def nonfinite_places(tensors: Mapping[str, Float[Tensor, "n ..."]]) -> dict[int, list[str]]:
    """{row: names of the tensors in which it holds a NaN or an infinity}, for the rows that have one."""
    faults: dict[int, list[str]] = {}
    for name, tensor in tensors.items():
        for row in torch.nonzero(~tensor.flatten(1).isfinite().all(dim=1)).flatten().tolist():
            faults.setdefault(row, []).append(name)
    return dict(sorted(faults.items()))


def to_uint8(images: Float[np.ndarray, "n height width 3"]) -> UInt8[np.ndarray, "n height width 3"]:
    """Pictures in [0, 1] as bytes, rounded to nearest; what is not finite becomes black."""
    return np.nan_to_num(images * 255, nan=0.0, posinf=0.0, neginf=0.0).round().clip(0, 255).astype(np.uint8)
