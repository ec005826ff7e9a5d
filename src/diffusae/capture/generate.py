"""Generating one batch of pictures from prompts and seeds, and recording updates."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from diffusae.backbone.blocks import Grid
from diffusae.backbone.branches import check_conditionings, planned_branches
from diffusae.backbone.families.table import adapter_of, refuse_needing_a_picture
from diffusae.backbone.hookpoints import execution_device
from diffusae.backbone.passes import CONDITIONINGS
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
    grids: dict[str, Grid]
    """{block: (h, w)}; positions are row-major over it."""
    lengths: dict[UpdateKey, list[int]] = field(default_factory=dict)
    """Of text streams: own tokens of every picture's text. Updates beyond are 0."""
    decoded_rows: Float[Tensor, "n 1"] | None = None
    """On the CPU: 0, or NaN where a decoded picture has a number that is not finite."""

    @cached_property
    def nonfinite(self) -> dict[int, list[str]]:
        """{picture: places of NaNs or infinities}: {3: ["mid at timestep 501, cond", "final
        latents"]}. Every update is looked at, so this takes time on the CPU when it is first
        asked for."""
        places = {
            f"{block} at timestep {t:g}, {name}": update
            for (block, t, name), update in self.updates.items()
        }
        places["final latents"] = self.latents
        if self.decoded_rows is not None:
            places["decoded picture"] = self.decoded_rows
        return nonfinite_places(places)


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
    """Generate one picture per prompt, as one batch through the unmodified `pipe(...)`.

    A picture has its own generator for its first latent and the scheduler's noise. So it does not
    depend on other pictures or its place, except that another batch size may round sums differently
    (about 1e-6, relative, in float32). First latents are drawn on the CPU in float32, so they are
    the same on every device.

    Args:
        guidance: the pipeline's `guidance_scale`.
        true_guidance: above 1, FLUX runs a second, unconditional pass per step.
        negative_prompt: the prompt of the unconditional pass, empty by default.
        text_tokens: length to which prompts are padded or cut, if the pipeline has a choice (T5).
        hookpoints: {block: a hookpoint's name, or place}; none: nothing is recorded.
        timesteps: the scheduler's own values; none: nothing is recorded.
        decode: False skips the decoder.
        height, width: in pixels; by default the model's size.
        progress: is called with the index of every finished step.

    Raises:
        UserError: invalid arguments, all in one error; out of memory, with the batch size to try.
    """
    refuse_text("prompts", prompts)
    refuse_needing_a_picture(pipe)
    adapter = adapter_of(pipe)
    scale, denoiser = pipe.vae_scale_factor, adapter.denoiser
    faults = list(_faults(prompts, seeds, steps))
    faults += _size_faults(math.lcm(8, scale * adapter.patch), height=height, width=width)
    if bool(hookpoints) != bool(timesteps):
        faults.append(
            "recording needs hookpoints and timesteps, but one is empty; give both or none"
        )
    together(faults)
    if hookpoints:
        planned = planned_branches(
            denoiser, guidance, layout=adapter.layout, true_guidance=true_guidance
        )
        check_conditionings(conditionings, planned)
    default_height, default_width = _default_size(pipe, denoiser)
    height = int(height or default_height * scale)
    width = int(width or default_width * scale)
    if (fault := adapter.size_fault(pipe, height, width)) is not None:
        raise UserError(fault)
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    latents = first_latents(
        generators, channels=adapter.latent_channels, height=height // scale, width=width // scale
    )
    final: list[Tensor] = []

    def on_step_end(index: int, latents: Tensor) -> None:
        final[:] = [latents]
        if progress is not None:
            progress(index)

    recording: AbstractContextManager[CapturedUpdates] = nullcontext(CapturedUpdates())
    if hookpoints:
        recording = capture_updates(
            pipe, hookpoints, timesteps, conditionings=conditionings, dtype=update_dtype
        )
    options = adapter.guidance(guidance, true_guidance, len(prompts))
    if negative_prompt is not None:
        if "negative_prompt" not in _parameters(pipe):
            raise UserError(f"{type(pipe).__name__} takes no negative prompt; leave it out")
        options["negative_prompt"] = [negative_prompt] * len(prompts)
    device = execution_device(pipe)
    try:
        with recording as captured:
            output = pipe(
                prompt=list(prompts),
                height=height,
                width=width,
                num_inference_steps=steps,
                generator=generators,
                latents=adapter.pack(latents).to(device=device, dtype=denoiser.dtype),
                output_type="pt" if decode else "latent",
                **options,
                **adapter.stepping(steps),
                **call_options(
                    pipe,
                    text_tokens=text_tokens,
                    size=(latents.shape[-2] * scale, latents.shape[-1] * scale),
                ),
                **_step_callback(pipe, on_step_end),
            )
    except torch.OutOfMemoryError as error:
        raise _too_many(len(prompts), device) from error
    latents = adapter.finished(pipe, final[0], height // scale, width // scale).float().cpu()
    decoded = output.images.float() if decode else None
    return Generation(
        images=None if decoded is None else to_uint8(decoded),
        latents=latents,
        updates=captured.updates,
        grids=captured.grids,
        lengths=captured.lengths,
        # 0 times a number that is not finite is NaN.
        decoded_rows=None if decoded is None else (decoded * 0).flatten(1).sum(1, True).cpu(),
    )


def _too_many(count: int, device: torch.device) -> UserError:
    less = f"try a batch size of {count // 2}" if count > 1 else "use a smaller picture or float16"
    return UserError(f"out of memory with {count} pictures at once on {device}; {less}")


def _size_faults(unit: int, **sizes: int | None) -> Iterator[str]:
    for name, pixels in sizes.items():
        if pixels is not None and (pixels < unit or pixels % unit):
            valid = max(unit, pixels // unit * unit)
            yield f"{name}={pixels} is not a multiple of {unit}; give one, such as {valid}"


def _faults(prompts: Sequence[str], seeds: Sequence[int], steps: int) -> Iterator[str]:
    if not prompts:
        yield "there is no prompt; give at least one"
    if len(prompts) != len(seeds):
        yield f"{len(prompts)} prompts have {len(seeds)} seeds; give one seed a prompt"
    if any(seed < 0 for seed in seeds):
        yield f"seed {min(seeds)} is negative; seeds count from 0"
    if steps < 1:
        yield f"steps={steps} is below 1; a run takes at least one step"


def call_options(
    pipe: Any, *, text_tokens: int | None, size: tuple[int, int] | None = None
) -> dict[str, Any]:
    """Arguments of every pipeline call, so that the pipeline changes no request.

    By default PixArt changes the picture's size to one that it was trained on, and rewrites
    captions. FLUX Kontext changes every size to an area, 1024 x 1024 px. `size`: (height, width).
    """
    known = _parameters(pipe)
    options: dict[str, Any] = {
        name: False for name in ("use_resolution_binning", "clean_caption") if name in known
    }
    if text_tokens is not None and "max_sequence_length" in known:
        options["max_sequence_length"] = text_tokens
    if size is not None and "max_area" in known:
        options["max_area"] = size[0] * size[1]
    return options


def _step_callback(pipe: Any, on_step_end: Callable[[int, Tensor], None]) -> dict[str, Any]:
    """The argument that reports latents after every step. Old and new pipelines have different
    ones."""
    if "callback_on_step_end" not in _parameters(pipe):
        return {"callback": lambda index, _timestep, latents: on_step_end(index, latents)}

    def callback(_pipe: Any, index: int, _t: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        on_step_end(index, tensors["latents"])
        return {}

    return {"callback_on_step_end": callback}


def _parameters(pipe: Any) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(type(pipe).__call__).parameters


def _default_size(pipe: Any, denoiser: Any) -> tuple[int, int]:
    """(height, width) of the latents at the model's own picture size."""
    size = denoiser.config.get("sample_size") or getattr(pipe, "default_sample_size", 128)
    return (size, size) if isinstance(size, int) else tuple(size)


def first_latents(
    generators: Sequence[torch.Generator], *, channels: int, height: int, width: int
) -> Float[Tensor, "n channels height width"]:
    """Standard normal latents, float32 on the CPU, one per generator."""
    shape = (channels, height, width)
    draws = [torch.randn(shape, generator=draw, dtype=torch.float32) for draw in generators]
    return torch.stack(draws)


def nonfinite_places(tensors: Mapping[str, Float[Tensor, "n ..."]]) -> dict[int, list[str]]:
    """{row: names of the tensors in which it has a NaN or an infinity}, without good rows."""
    faults: dict[int, list[str]] = {}
    for name, tensor in tensors.items():
        for row in torch.nonzero(~tensor.flatten(1).isfinite().all(dim=1)).flatten().tolist():
            faults.setdefault(row, []).append(name)
    return dict(sorted(faults.items()))


def to_uint8(images: Float[Tensor, "n 3 height width"]) -> UInt8[np.ndarray, "n height width 3"]:
    """Pictures in [0, 1] as bytes, rounded to nearest. Non-finite values become 0.

    This happens on the device of the pictures, so that a quarter of the bytes leaves it.
    """
    finite = torch.nan_to_num(images * 255, nan=0.0, posinf=0.0, neginf=0.0)
    pixels = finite.round().clamp(0, 255).to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy()
