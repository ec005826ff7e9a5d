"""Hooks on transformer blocks around an unmodified pipeline call, to see, change or record vectors.

By default they are the update of a block, output - input ("Emergence", arXiv 2504.15473, section
3). A hookpoint may name another site (`backbone.sites`).
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from diffusae.backbone.blocks import Grid
from diffusae.backbone.branches import BranchCounter, check_conditionings, rows_of, unknown_rows
from diffusae.backbone.compiled import refuse_compiled
from diffusae.backbone.families.table import list_hookpoints, passes_of
from diffusae.backbone.hookpoints import denoiser_of, find_all
from diffusae.backbone.passes import CONDITIONINGS, Branches
from diffusae.backbone.sites import reading
from diffusae.capture.account import Account, check_visited, in_order
from diffusae.capture.account import Key as UpdateKey
from diffusae.capture.clock import Clock, running_clock
from diffusae.capture.due import Due, DueBlocks
from diffusae.capture.offload import Offload
from diffusae.capture.sequences import Vectors
from diffusae.capture.site_hooks import Seen, hook_site
from diffusae.errors import UserError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Moment:
    """The timestep, grid and branches of a hookpoint's call."""

    timestep: float
    """The scheduler's own value."""
    grid: Grid
    """Of the block's positions, row-major, without text; (tokens,) of the text's stream."""
    branches: BranchCounter
    """A call of it gives the guidance branches along the batch."""
    lengths: Sequence[int] | None = None
    """Own tokens of every row's text; the vectors beyond are 0. None: of a picture."""


Visit = Callable[[str, Moment, Tensor], Tensor | None]
"""(block, moment, vectors) -> what is added to them, or None. Both are [rows, positions, d_in]."""


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
    """Call `visit` with the vectors of every hookpoint at the wanted scheduler timesteps (None: at
    all).

    A hookpoint's name says what is seen (`backbone.sites`): by default the block's update, of the
    picture's tokens alone. What `visit` returns is added where the vectors were read: to the
    output of the block, for an update, or to the input or output of the block or its layer. The
    model goes on with the sum. Contexts may be nested: vectors include the changes of earlier
    contexts. Hooks are removed afterwards, also after an exception.

    Args:
        hookpoints: {block: a hookpoint's name, or its place in `list_hookpoints`}.
        layout: the branches along the batch in the caller's own loop, such as ("uncond", "cond").
        due: gives the blocks that must run. The rows of every denoiser call are then checked before
            any block runs.

    Raises:
        UserError: a hookpoint is unknown or the denoiser compiled. With `due`: a call's rows are
            unknown, or a cache or layer skipping left out a block.
    """
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    denoiser = denoiser_of(pipe)
    refuse_compiled(denoiser)
    infos = find_all(list_hookpoints(denoiser), hookpoints)
    refuse_compiled(denoiser, [reading(info).module for info in infos.values()])
    counts = due is not None and layout is None and isinstance(pipe, DiffusionPipeline)
    if counts and passes_of(type(pipe)) is None:
        raise unknown_rows(pipe, own_loop=False)
    wanted = None if timesteps is None else frozenset(timesteps)
    with ExitStack() as stack:
        clock = stack.enter_context(running_clock(pipe, layout=layout))
        due_blocks = None if due is None else DueBlocks(denoiser, infos, clock, due, stack)
        if due_blocks is not None:
            clock.watchers.append(due_blocks.begin)

        def seen_by(block: str) -> Seen:
            info = infos[block]

            def seen(tensor: Tensor, before: Tensor | None) -> Tensor | None:
                now = clock.now
                if due_blocks is not None:
                    due_blocks.called(block)
                if now is None or (wanted is not None and now not in wanted):
                    return None
                vectors = Vectors(info, reading(info).tokens, clock, tensor)
                value = vectors.of(tensor)
                if before is not None:
                    value = value - vectors.of(before)
                moment = Moment(now, vectors.grid, clock.branches, vectors.lengths)
                change = visit(block, moment, value)
                return None if change is None else vectors.added(tensor, change)

            return seen

        for block, info in infos.items():
            hook_site(denoiser, info, seen_by(block), stack)
        yield clock
        if due_blocks is not None:
            due_blocks.settle()


@dataclass
class CapturedUpdates:
    """The recording of `capture_updates`, complete after its context."""

    updates: dict[UpdateKey, Float[Tensor, "pictures positions d_in"]] = field(default_factory=dict)
    """On the CPU: updates, or the vectors of another site that the hookpoint names. Positions are
    row-major over the grid. Pictures are in the order of the calls."""
    grids: dict[str, Grid] = field(default_factory=dict)
    """{block: (h, w), or (frames, h, w); (most tokens,) of the text's stream}"""
    lengths: dict[UpdateKey, list[int]] = field(default_factory=dict)
    """Of text streams: own tokens of every picture's text. Vectors beyond are 0."""


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
    """Record the updates of all blocks at the wanted scheduler timesteps of the pipeline calls
    inside.

    The arguments of a call give its number of pictures. Every denoiser call must have one row per
    picture and branch. In your own loop over the denoiser, `layout` names the branches along the
    batch, such as ("uncond", "cond"), and every denoiser call counts as new pictures.

    Updates are computed in the model's dtype and stored as `dtype` (None: the same). Non-finite
    values are recorded too. Updates of exactly zero give a warning.

    Raises:
        UserError: rows are unknown or do not fit; a wanted timestep does not come, or comes twice
            in a call; a block did not run; `uncond` is wanted of a call without guidance.
    """
    if not timesteps:
        raise UserError("no timestep is wanted; name at least one to record")
    check_conditionings(conditionings, CONDITIONINGS)
    captured = CapturedUpdates()
    parts: defaultdict[UpdateKey, list[tuple[int, Tensor]]] = defaultdict(list)
    offload = Offload()
    account = Account(pipe, hookpoints, timesteps, conditionings)
    wanted = frozenset(timesteps)

    def record(block: str, moment: Moment, vectors: Tensor) -> None:
        _note_grid(captured.grids, block, moment)
        for conditioning in moment.branches.held(conditionings):
            number = account.enter(clock, block, conditioning)
            rows = rows_of(conditioning, len(vectors), moment.branches())
            part = vectors[rows]
            key = block, moment.timestep, conditioning
            parts[key].append((number, offload(part, dtype or part.dtype)))
            if moment.lengths is not None:
                captured.lengths.setdefault(key, []).extend(moment.lengths[rows])

    def due(clock: Clock) -> Collection[str]:
        return hookpoints if clock.now in wanted and clock.branches.held(conditionings) else ()

    with hook_blocks(
        pipe, hookpoints, record, timesteps=timesteps, layout=layout, due=due
    ) as clock:
        yield captured
    check_visited(timesteps, clock)
    offload.wait()
    recorded = tuple(dict.fromkeys(conditioning for *_, conditioning in parts))
    check_conditionings(conditionings, recorded)
    account.close()
    captured.updates.update((key, in_order(part)) for key, part in parts.items())
    _warn_of_zeros(captured.updates)


def _note_grid(grids: dict[str, Grid], block: str, moment: Moment) -> None:
    """Note a block's grid; `UserError` if a picture's changes. Texts may differ in length."""
    known = grids.setdefault(block, moment.grid)
    if moment.lengths is not None:
        grids[block] = max(known, moment.grid)
    elif known != moment.grid:
        raise UserError(
            f"{block} changed its grid from {known} to {moment.grid}; record one picture size"
        )


def _warn_of_zeros(updates: Mapping[UpdateKey, Float[Tensor, "pictures positions d_in"]]) -> None:
    for (block, timestep, conditioning), update in updates.items():
        if not update.shape[1]:  # texts without a token
            continue
        # One position excludes most pictures quickly
        suspects = (~update[:, 0].any(dim=-1)).nonzero().flatten().tolist()
        zero = [picture for picture in suspects if not update[picture].any()]
        if zero:
            logger.warning(
                "the update of %s at timestep %g, %s, is exactly zero for %d of %d pictures "
                "(first: picture %d): the block changed nothing there",
                block,
                timestep,
                conditioning,
                len(zero),
                len(update),
                zero[0],
            )
