"""Hooks on transformer blocks around an unmodified pipeline call: to see, replace or record what they do.

The recorded quantity is the residual update of a block, output - input ("Emergence", arXiv 2504.15473,
section 3).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffusae.backbone.branches import CONDITIONINGS, check_conditionings, rows_of, running_branches
from diffusae.backbone.hookpoints import denoiser_of, resolve_all
from diffusae.capture.clock import Clock, running_clock
from diffusae.errors import UserError

UpdateKey = tuple[str, float, str]
"""(block, the scheduler's timestep, conditioning)"""

Visit = Callable[[str, float, Tensor, Tensor], Tensor | None]
"""visit(block, timestep, input, output) -> another output, or None to keep it; all are [rows, d_in, h, w]."""


@contextmanager
def hook_blocks(
    pipe: Any, hookpoints: Mapping[str, str], visit: Visit, *, timesteps: Collection[float] | None = None
) -> Iterator[Clock]:
    """Call `visit` after each hooked block at the wanted scheduler timesteps (None: at all).

    `hookpoints` is {block: module path}. At other timesteps a hook costs one comparison. Contexts nest: a
    hook sees the output as the contexts entered before it left it. The hooks are gone afterwards, after an
    exception too.
    """
    denoiser = denoiser_of(pipe)
    modules = resolve_all(denoiser, hookpoints)
    wanted = None if timesteps is None else frozenset(timesteps)
    with ExitStack() as stack:
        clock = stack.enter_context(running_clock(denoiser))

        def hook_for(block: str) -> Callable[..., Any]:
            def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
                now = clock.now
                if now is None or (wanted is not None and now not in wanted):
                    return None
                before = args[0] if args else kwargs["hidden_states"]
                replacement = visit(block, now, before, _sample(output))
                return None if replacement is None else _with_sample(output, replacement)

            return hook

        for block, module in modules.items():
            handle = module.register_forward_hook(hook_for(block), with_kwargs=True)
            stack.callback(handle.remove)
        yield clock


@dataclass
class CapturedUpdates:
    """What `capture_updates` recorded; complete once its context has ended."""

    updates: dict[UpdateKey, Float[Tensor, "pictures positions d_in"]] = field(default_factory=dict)
    """On the CPU. Positions are row-major over the grid; the pictures of several calls follow on."""
    grids: dict[str, tuple[int, int]] = field(default_factory=dict)
    """{block: (h, w)}"""


@contextmanager
def capture_updates(
    pipe: Any,
    hookpoints: Mapping[str, str],
    timesteps: Collection[float],
    *,
    conditionings: Collection[str] = CONDITIONINGS,
    dtype: torch.dtype | None = None,
) -> Iterator[CapturedUpdates]:
    """Record the updates of all blocks at all wanted scheduler timesteps in the pipeline calls made inside.

    The update is computed in the model's dtype and then stored as `dtype` (None: as it is). Values are not
    judged: what is not finite, or overflows a narrower `dtype`, is recorded as such. `UserError` when a
    wanted timestep has not come by the end, or `uncond` is wanted of a call without guidance.
    """
    if not timesteps:
        raise UserError("no timestep is wanted; name at least one to record")
    check_conditionings(conditionings, CONDITIONINGS)
    captured = CapturedUpdates()
    parts: defaultdict[UpdateKey, list[Tensor]] = defaultdict(list)

    def record(block: str, timestep: float, before: Tensor, after: Tensor) -> None:
        grid = (after.shape[-2], after.shape[-1])
        if captured.grids.setdefault(block, grid) != grid:
            raise UserError(
                f"{block} changed its grid from {captured.grids[block]} to {grid}; record one picture size"
            )
        branches = running_branches(pipe)
        for conditioning in conditionings:
            rows = rows_of(conditioning, len(after), branches)
            update = to_positions(after[rows] - before[rows])
            parts[block, timestep, conditioning].append(update.to(device="cpu", dtype=dtype or update.dtype))

    with hook_blocks(pipe, hookpoints, record, timesteps=timesteps) as clock:
        yield captured
    check_visited(timesteps, clock)
    captured.updates.update((key, torch.cat(part)) for key, part in parts.items())


def to_positions(images: Float[Tensor, "rows d_in h w"]) -> Float[Tensor, "rows h*w d_in"]:
    """Feature maps as one vector a position, positions row-major over (h, w)."""
    return images.flatten(2).transpose(1, 2)


def check_visited(timesteps: Collection[float], clock: Clock) -> None:
    """`UserError` when a wanted timestep never came."""
    missing = sorted(set(timesteps) - set(clock.visited), reverse=True)
    if missing:
        visited = ", ".join(f"{t:g}" for t in dict.fromkeys(clock.visited))
        came = visited or "none: the denoiser was not called"
        raise UserError(
            f"timestep {', '.join(f'{t:g}' for t in missing)} never came; those that came: {came}. "
            "Take wanted timesteps from the scheduler that runs, with its number of steps"
        )


def _sample(output: Any) -> Tensor:
    """The tensor in what a block returns: a tensor, a tuple, or a Transformer2DModelOutput."""
    if isinstance(output, Tensor):
        return output
    return output[0] if isinstance(output, tuple) else output.sample


def _with_sample(output: Any, sample: Tensor) -> Any:
    """`output` with another tensor in it, in the same form."""
    if isinstance(output, Tensor):
        return sample
    return (sample, *output[1:]) if isinstance(output, tuple) else type(output)(sample=sample)
