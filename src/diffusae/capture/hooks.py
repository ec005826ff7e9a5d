"""Hooks on transformer blocks around an unmodified pipeline call: to see, replace or record what
they do.

The recorded quantity is the residual update of a block, output - input ("Emergence", arXiv
2504.15473, section 3).
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from jaxtyping import Float
from torch import Tensor, nn

from diffusae.backbone.branches import ToldBranches, check_conditionings, rows_of, unknown_rows
from diffusae.backbone.compiled import refuse_compiled
from diffusae.backbone.hookpoints import denoiser_of, find_all, list_hookpoints
from diffusae.backbone.layouts import CONDITIONINGS, Branches, passes_of
from diffusae.capture.account import Account, check_visited, in_order
from diffusae.capture.account import Key as UpdateKey
from diffusae.capture.clock import Clock, running_clock
from diffusae.capture.due import Due, DueBlocks
from diffusae.capture.offload import Offload
from diffusae.errors import UserError

logger = logging.getLogger(__name__)


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
"""visit(block, moment, input, output) -> another output, or None to keep it; all are [rows,
positions, d_in]."""


@contextmanager
def hook_blocks(
    pipe: Any,
    hookpoints: Mapping[str, str | int],
    visit: Visit,
    *,
    timesteps: Collection[float] | None = None,
    layout: Branches | None = None,
    due: Due | None = None,
) -> Iterator[Clock]:
    """Call `visit` after each hooked block at the wanted scheduler timesteps (None: at all).

    `hookpoints` is {block: module path, or place in `list_hookpoints`}. `visit` sees the picture's
    stream alone: feature maps as one vector a position, and of a joint block that returns text and
    picture the latter. At other timesteps a hook costs one comparison. Contexts nest: a hook sees
    the output as the contexts entered before it left it. The hooks are gone afterwards, after an
    exception too.

    Args:
        layout: the branches along the batch in a loop of the caller's own over the denoiser, such
            as ("uncond", "cond").
        due: with it, the rows of every denoiser call are counted before any block runs, and a block
            that is due and does not run is an error.

    Raises:
        UserError: an unknown hookpoint, a compiled denoiser; with `due`, a call whose rows are not
            known, or a block that a cache or layer skipping left out.
    """
    denoiser = denoiser_of(pipe)
    refuse_compiled(denoiser)
    infos = find_all(list_hookpoints(denoiser), hookpoints)
    refuse_compiled(denoiser, [info.path for info in infos.values()])
    if (
        due is not None
        and layout is None
        and isinstance(pipe, DiffusionPipeline)
        and passes_of(type(pipe)) is None
    ):
        raise unknown_rows(pipe, own_loop=False)
    wanted = None if timesteps is None else frozenset(timesteps)
    with ExitStack() as stack:
        clock = stack.enter_context(running_clock(pipe, layout=layout))
        looking = None if due is None else DueBlocks(denoiser, infos, clock, due, stack)
        if looking is not None:
            clock.watchers.append(looking.begin)

        def hook_for(block: str) -> Callable[..., Any]:
            info = infos[block]

            def hook(
                _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
            ) -> Any:
                now = clock.now
                if looking is not None:
                    looking.called(block)
                if now is None or (wanted is not None and now not in wanted):
                    return None
                before = args[0] if args else kwargs["hidden_states"]
                after = _picture(output, before)
                grid = (
                    (before.shape[-2], before.shape[-1])
                    if before.ndim == 4
                    else info.grid(*clock.size)
                )
                moment = Moment(now, grid, clock.branches)
                replacement = visit(
                    block, moment, _positions(before, grid), _positions(after, grid)
                )
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
        if looking is not None:
            looking.settle()


@dataclass
class CapturedUpdates:
    """What `capture_updates` recorded; complete once its context has ended."""

    updates: dict[UpdateKey, Float[Tensor, "pictures positions d_in"]] = field(default_factory=dict)
    """On the CPU. Positions are row-major over the grid; the pictures of several calls follow
    on."""
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
    layout: Branches | None = None,
) -> Iterator[CapturedUpdates]:
    """Record the updates of all blocks at all wanted scheduler timesteps in the pipeline calls made
    inside.

    How many pictures a call makes is read off its arguments, and every denoiser call must have a
    row for each of them in each branch of guidance that the pipeline's class runs. In a loop of
    your own over the denoiser, `layout` names the branches along the batch: `layout=("uncond",
    "cond")`; every call of it counts as further pictures.

    The update is computed in the model's dtype and then stored as `dtype` (None: as it is). Values
    are not judged: what is not finite, or overflows a narrower `dtype`, is recorded as such; an
    update of exactly zero gets a warning.

    Raises:
        UserError: rows that are not known or not counted right, before anything is recorded; a
            wanted timestep that has not come by the end, or comes twice in a call; a block that did
            not run; `uncond` of a call without guidance.
    """
    if not timesteps:
        raise UserError("no timestep is wanted; name at least one to record")
    check_conditionings(conditionings, CONDITIONINGS)
    captured = CapturedUpdates()
    parts: defaultdict[UpdateKey, list[tuple[int, Tensor]]] = defaultdict(list)
    offload = Offload()
    account = Account(pipe, hookpoints, timesteps, conditionings)
    wanted = frozenset(timesteps)

    def record(block: str, moment: Moment, before: Tensor, after: Tensor) -> None:
        if captured.grids.setdefault(block, moment.grid) != moment.grid:
            raise UserError(
                f"{block} changed its grid from {captured.grids[block]} to {moment.grid}; record"
                " one picture size"
            )
        for conditioning in moment.branches.held(conditionings):
            number = account.enter(clock, block, conditioning)
            rows = rows_of(conditioning, len(after), moment.branches())
            update = after[rows] - before[rows]
            part = number, offload(update, dtype or update.dtype)
            parts[block, moment.timestep, conditioning].append(part)

    def due(clock: Clock) -> Collection[str]:
        return hookpoints if clock.now in wanted and clock.branches.held(conditionings) else ()

    with hook_blocks(
        pipe, hookpoints, record, timesteps=timesteps, layout=layout, due=due
    ) as clock:
        yield captured
    check_visited(timesteps, clock)
    offload.wait()
    check_conditionings(
        conditionings, tuple(dict.fromkeys(conditioning for *_, conditioning in parts))
    )
    account.close()
    captured.updates.update((key, in_order(part)) for key, part in parts.items())
    _warn_of_zeros(captured.updates)


def _warn_of_zeros(updates: Mapping[UpdateKey, Float[Tensor, "pictures positions d_in"]]) -> None:
    for (block, timestep, conditioning), update in updates.items():
        # One position tells most apart
        suspects = (~update[:, 0].any(dim=-1)).nonzero().flatten().tolist()
        zero = [picture for picture in suspects if not update[picture].any()]
        if zero:
            logger.warning(
                "the update of %s at timestep %g, %s, is exactly zero for %d of %d pictures, the"
                " first of them picture %d: the block changed nothing there",
                block,
                timestep,
                conditioning,
                len(zero),
                len(update),
                zero[0],
            )


def to_positions(images: Float[Tensor, "rows d_in h w"]) -> Float[Tensor, "rows h*w d_in"]:
    """Feature maps as one vector a position, positions row-major over (h, w)."""
    return images.flatten(2).transpose(1, 2)


def _positions(stream: Tensor, grid: tuple[int, int]) -> Tensor:
    """A block's input or output as one vector a position."""
    if stream.ndim == 4:
        return to_positions(stream)
    if stream.shape[1] != grid[0] * grid[1]:
        raise UserError(
            f"the block holds {stream.shape[1]} positions, and the picture's grid is {grid[0]} x"
            f" {grid[1]}: it mixes text and picture in one stream; hook another block"
        )
    return stream


def _place(output: Sequence[Any], before: Tensor) -> int:
    """Which of several outputs is the picture's stream: the one of the input's shape, the last
    where several are.

    Joint blocks return (text, picture), 2D transformers (picture,).
    """
    same = [
        i
        for i, each in enumerate(output)
        if isinstance(each, Tensor) and each.shape == before.shape
    ]
    if not same:
        raise UserError(
            "the block returns nothing of its input's shape, so it has no update; hook another"
        )
    return same[-1]


def _picture(output: Any, before: Tensor) -> Tensor:
    """The picture's stream in what a block returns: a tensor, a tuple, or a
    Transformer2DModelOutput."""
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
