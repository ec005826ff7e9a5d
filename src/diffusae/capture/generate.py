"""One batch of pictures from prompts and seeds, with the updates that were recorded on the way."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from diffusae.backbone.adapters import adapter_of
from diffusae.backbone.branches import check_conditionings, planned_branches
from diffusae.backbone.families import refuse_needing_a_picture
from diffusae.backbone.hookpoints import execution_device
from diffusae.backbone.layouts import CONDITIONINGS
from diffusae.capture.hooks import CapturedUpdates, UpdateKey, capture_updates
from diffusae.errors import UserError, refuse_text, together


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
    """{picture: where it held a NaN or an infinity}: {3: ["mid at timestep 501, cond", "final
    latents"]}."""


def generate(
    pipe: Any,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    steps: int,
    guidance: float,
    true_guidance: float | None = None,
    negative_prompt: str | None = None,
    text_tokens: int | None = None,
    hookpoints: Mapping[str, str | int] | None = None,
    timesteps: Collection[float] = (),
    conditionings: Collection[str] = CONDITIONINGS,
    decode: bool = True,
    height: int | None = None,
    width: int | None = None,
    update_dtype: torch.dtype | None = None,
    progress: Callable[[int], None] | None = None,
) -> Generation:
    """Generate one picture a prompt, as one batch through the unmodified `pipe(...)`, and record
    updates.

    Each picture has its own generator, seeded by its seed, for its first latent and for whatever
    noise the scheduler draws: a picture depends neither on its neighbours nor on its place, except
    that sums over another batch size may be rounded differently (about 1e-6, relative, in float32).
    The first latents are drawn on the CPU in float32, so they are the same on every device.

    `guidance` is the pipeline's `guidance_scale`; `true_guidance` above 1 makes FLUX run a second,
    unconditional pass a step under the empty prompt. `negative_prompt` is what the unconditional
    pass is given in the empty prompt's place. `text_tokens` is the length that prompts are padded
    and cut to, where the pipeline lets one choose (T5). `hookpoints` is {block: module path, or
    place}, `timesteps` are the scheduler's own values; without either nothing is recorded. `height`
    and `width` in pixels default to the model's size. Without `decode` the decoder does not run.
    `progress` is called with the index of each finished step. Out of memory becomes a `UserError`
    with the batch size to try.
    """
    refuse_text("prompts", prompts)
    refuse_needing_a_picture(pipe)
    faults = []
    if not prompts:
        faults.append("there is no prompt; give at least one")
    if len(prompts) != len(seeds):
        faults.append(f"{len(prompts)} prompts have {len(seeds)} seeds; give one seed a prompt")
    if any(seed < 0 for seed in seeds):
        faults.append(f"seed {min(seeds)} is negative; seeds count from 0")
    if steps < 1:
        faults.append(f"steps={steps} is below 1; a run takes at least one step")
    adapter = adapter_of(pipe)
    unit = math.lcm(8, pipe.vae_scale_factor * adapter.patch)
    for name, pixels in (("height", height), ("width", width)):
        if pixels is not None and (pixels < unit or pixels % unit):
            faults.append(
                f"{name}={pixels} is not a multiple of {unit}; give one, such as"
                f" {max(unit, pixels // unit * unit)}"
            )
    if bool(hookpoints) != bool(timesteps):
        faults.append(
            "recording needs both hookpoints and timesteps, and one of them is empty; give both or"
            " neither"
        )
    together(faults)
    denoiser = adapter.denoiser
    if hookpoints:
        planned = planned_branches(
            denoiser, guidance, layout=adapter.layout, true_guidance=true_guidance
        )
        check_conditionings(conditionings, planned)
    scale = pipe.vae_scale_factor
    default_height, default_width = _default_size(pipe, denoiser)
    height, width = height or default_height * scale, width or default_width * scale
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    latents = first_latents(
        generators, channels=adapter.latent_channels, height=height // scale, width=width // scale
    )
    final: list[Tensor] = []

    def on_step_end(index: int, latents: Tensor) -> None:
        final[:] = [latents]
        if progress is not None:
            progress(index)

    recording = (
        capture_updates(
            pipe, hookpoints, timesteps, conditionings=conditionings, dtype=update_dtype
        )
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
                generator=generators,
                latents=adapter.pack(latents).to(
                    device=execution_device(pipe), dtype=denoiser.dtype
                ),
                output_type="np" if decode else "latent",
                **adapter.guidance(guidance, true_guidance, len(prompts))
                | (
                    {}
                    if negative_prompt is None
                    else {"negative_prompt": [negative_prompt] * len(prompts)}
                ),
                **call_options(pipe, text_tokens=text_tokens),
                **_told(pipe, on_step_end),
            )
    except torch.OutOfMemoryError as error:
        remedy = (
            f"try a batch size of {len(prompts) // 2}"
            if len(prompts) > 1
            else "use a smaller picture or float16"
        )
        raise UserError(
            f"out of memory with {len(prompts)} pictures at once on {execution_device(pipe)};"
            f" {remedy}"
        ) from error
    places = {
        f"{block} at timestep {t:g}, {name}": update
        for (block, t, name), update in captured.updates.items()
    }
    latents = adapter.unpack(final[0], height // scale, width // scale).float().cpu()
    places["final latents"] = latents
    if decode:
        places["decoded picture"] = torch.from_numpy(output.images)
    return Generation(
        images=to_uint8(output.images) if decode else None,
        latents=latents,
        updates=captured.updates,
        grids=captured.grids,
        nonfinite=nonfinite_places(places),
    )


def call_options(pipe: Any, *, text_tokens: int | None) -> dict[str, Any]:
    """What every call of a pipeline is given, so that it does what it is asked for and nothing
    besides.

    PixArt would change the picture's size to the nearest that it was trained on, and rewrite
    captions.
    """
    known = _parameters(pipe)
    options: dict[str, Any] = {
        name: False for name in ("use_resolution_binning", "clean_caption") if name in known
    }
    if text_tokens is not None and "max_sequence_length" in known:
        options["max_sequence_length"] = text_tokens
    return options


def _told(pipe: Any, on_step_end: Callable[[int, Tensor], None]) -> dict[str, Any]:
    """The argument that makes a pipeline tell its latents after each step: newer pipelines have
    another than older ones."""
    if "callback_on_step_end" not in _parameters(pipe):
        return {"callback": lambda index, _timestep, latents: on_step_end(index, latents)}

    def callback(
        _pipe: Any, index: int, _timestep: Any, tensors: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        on_step_end(index, tensors["latents"])
        return {}

    return {"callback_on_step_end": callback}


def _parameters(pipe: Any) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(type(pipe).__call__).parameters


def _default_size(pipe: Any, denoiser: Any) -> tuple[int, int]:
    """(height, width) of the latents of a picture of the model's own size."""
    size = denoiser.config.get("sample_size") or pipe.default_sample_size
    return (size, size) if isinstance(size, int) else tuple(size)


def first_latents(
    generators: Sequence[torch.Generator], *, channels: int, height: int, width: int
) -> Float[Tensor, "n channels height width"]:
    """Standard normal latents, float32 on the CPU, each drawn from its own generator."""
    shape = (channels, height, width)
    return torch.stack(
        [torch.randn(shape, generator=generator, dtype=torch.float32) for generator in generators]
    )


def nonfinite_places(tensors: Mapping[str, Float[Tensor, "n ..."]]) -> dict[int, list[str]]:
    """{row: names of the tensors in which it holds a NaN or an infinity}, for the rows that have
    one."""
    faults: dict[int, list[str]] = {}
    for name, tensor in tensors.items():
        for row in torch.nonzero(~tensor.flatten(1).isfinite().all(dim=1)).flatten().tolist():
            faults.setdefault(row, []).append(name)
    return dict(sorted(faults.items()))


def to_uint8(
    images: Float[np.ndarray, "n height width 3"],
) -> UInt8[np.ndarray, "n height width 3"]:
    """Pictures in [0, 1] as bytes, rounded to nearest; what is not finite becomes black."""
    return (
        np.nan_to_num(images * 255, nan=0.0, posinf=0.0, neginf=0.0)
        .round()
        .clip(0, 255)
        .astype(np.uint8)
    )
