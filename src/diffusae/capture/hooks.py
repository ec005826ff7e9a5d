"""Hooks on transformer blocks around an unmodified pipeline call: to see, replace or record what they do.

The recorded quantity is the residual update of a block, output - input ("Emergence", arXiv 2504.15473,
section 3).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffusae.backbone.branches import CONDITIONINGS, ToldBranches, check_conditionings, rows_of
from diffusae.backbone.hookpoints import denoiser_of, find_all, list_hookpoints
from diffusae.capture.clock import Clock, running_clock
from diffusae.capture.offload import Offload
from diffusae.errors import UserError

UpdateKey = tuple[str, float, str]
"""(block, the scheduler's timestep, conditioning)"""


@dataclass(frozen=True)
class Moment:
    """Where a hooked block is in a pipeline's call."""

    timestep: float
    """The scheduler's own value."""
    grid: tuple[int, int]
    """(h, w) of the block's positions, row-major; text is no part of them."""
    branches: ToldBranches
    """Called, it gives the guidance branches along the batch."""


Visit = Callable[[str, Moment, Tensor, Tensor], Tensor | None]
"""visit(block, moment, input, output) -> another output, or None to keep it; all are [rows, positions, d_in]."""


@contextmanager
def hook_blocks(
    pipe: Any,
    hookpoints: Mapping[str, str | int],
    visit: Visit,
    *,
    timesteps: Collection[float] | None = None,
) -> Iterator[Clock]:
    """Call `visit` after each hooked block at the wanted scheduler timesteps (None: at all).

    `hookpoints` is {block: module path, or place in `list_hookpoints`}. `visit` sees the picture's stream alone: feature
    maps as one vector a position, and of a joint block that returns text and picture the latter. At other timesteps a
    hook costs one comparison. Contexts nest: a hook sees the output as the contexts entered before it left it. The hooks
    are gone afterwards, after an exception too.
    """
    denoiser = denoiser_of(pipe)
    infos = find_all(list_hookpoints(denoiser), hookpoints)
    wanted = None if timesteps is None else frozenset(timesteps)
    with ExitStack() as stack:
        clock = stack.enter_context(running_clock(pipe))

        def hook_for(block: str) -> Callable[..., Any]:
            info = infos[block]

            def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
                now = clock.now
                if now is None or (wanted is not None and now not in wanted):
                    return None
                before = args[0] if args else kwargs["hidden_states"]
                after = _picture(output, before)
                grid = (before.shape[-2], before.shape[-1]) if before.ndim == 4 else info.grid(*clock.size)
                moment = Moment(now, grid, clock.branches)
                replacement = visit(block, moment, _positions(before, grid), _positions(after, grid))
                if replacement is None:
                    return None
                if after.ndim == 4:
                    replacement = replacement.transpose(1, 2).unflatten(2, grid)
                return _with_picture(output, before, replacement)

            return hook

        for block, info in infos.items():
            handle = denoiser.get_submodule(info.path).register_forward_hook(
                hook_for(block), with_kwargs=True
            )
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
    hookpoints: Mapping[str, str | int],
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
    offload = Offload()

    def record(block: str, moment: Moment, before: Tensor, after: Tensor) -> None:
        if captured.grids.setdefault(block, moment.grid) != moment.grid:
            raise UserError(
                f"{block} changed its grid from {captured.grids[block]} to {moment.grid}; record one picture size"
            )
        for conditioning in moment.branches.held(conditionings):
            rows = rows_of(conditioning, len(after), moment.branches())
            update = after[rows] - before[rows]
            parts[block, moment.timestep, conditioning].append(offload(update, dtype or update.dtype))

    with hook_blocks(pipe, hookpoints, record, timesteps=timesteps) as clock:
        yield captured
    check_visited(timesteps, clock)
    offload.wait()
    check_conditionings(conditionings, tuple(dict.fromkeys(conditioning for *_, conditioning in parts)))
    captured.updates.update(
        (key, part[0] if len(part) == 1 else torch.cat(part)) for key, part in parts.items()
    )


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


def _positions(stream: Tensor, grid: tuple[int, int]) -> Tensor:
    """A block's input or output as one vector a position."""
    if stream.ndim == 4:
        return to_positions(stream)
    if stream.shape[1] != grid[0] * grid[1]:
        raise UserError(
            f"the block holds {stream.shape[1]} positions, and the picture's grid is {grid[0]} x {grid[1]}: it mixes text "
            "and picture in one stream; hook another block"
        )
    return stream


def _place(output: Sequence[Any], before: Tensor) -> int:
    """Which of several outputs is the picture's stream: the one of the input's shape, the last where several are.

    Joint blocks return (text, picture), 2D transformers (picture,).
    """
    same = [i for i, each in enumerate(output) if isinstance(each, Tensor) and each.shape == before.shape]
    if not same:
        raise UserError("the block returns nothing of its input's shape, so it has no update; hook another")
    return same[-1]


def _picture(output: Any, before: Tensor) -> Tensor:
    """The picture's stream in what a block returns: a tensor, a tuple, or a Transformer2DModelOutput."""
    if isinstance(output, Tensor):
        return output
    return output[_place(output, before)] if isinstance(output, tuple) else output.sample


def _with_picture(output: Any, before: Tensor, picture: Tensor) -> Any:
    """`output` with another picture's stream in it, in the same form."""
    if isinstance(output, Tensor):
        return picture
    if not isinstance(output, tuple):
        return type(output)(sample=picture)
    place = _place(output, before)
    return (*output[:place], picture, *output[place + 1 :])
