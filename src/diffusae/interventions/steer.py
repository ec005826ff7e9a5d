"""Edits around an unmodified pipeline call: `with steer(pipe, edits): pipe(prompt)`."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from diffusae.backbone.branches import check_conditionings, rows_of
from diffusae.backbone.schedule import t_of
from diffusae.capture.hooks import Moment, hook_blocks
from diffusae.errors import UserError
from diffusae.interventions.edits import Edit

logger = logging.getLogger(__name__)


@dataclass
class Steering:
    """What the edits did, by their place in the list."""

    steps: dict[int, int] = field(default_factory=dict)
    """Denoiser calls that an edit acted in."""
    largest_change: dict[int, float] = field(default_factory=dict)
    """The largest length of a change, in lengths of the longest update of that call."""


@contextmanager
def steer(pipe: Any, edits: Sequence[Edit]) -> Iterator[Steering]:
    """Apply `edits`, in their order, to the updates of every pipeline call made inside.

    Outside their windows the edits cost a comparison a step. An edit that did not act, or changed nothing, gets a
    warning when the context ends. The hooks are gone afterwards, after an error too.

    Raises:
        UserError: no edits, an unknown hookpoint, a conditioning that the call does not run.
    """
    if not edits:
        raise UserError("there is no edit; give at least one")
    steering = Steering(dict.fromkeys(range(len(edits)), 0), dict.fromkeys(range(len(edits)), 0.0))
    paths = list(dict.fromkeys(edit.hookpoint for edit in edits))
    clock = _NormalisedTime(pipe)
    reached: dict[int, set[str]] = {number: set() for number in range(len(edits))}

    def visit(path: str, moment: Moment, before: Tensor, after: Tensor) -> Tensor | None:
        t = clock.at(moment.timestep)
        acting = [(n, edit) for n, edit in enumerate(edits) if edit.hookpoint == path and edit.acts_at(t)]
        if not acting:
            return None
        edited = after.clone()
        for number, edit in acting:
            held = moment.branches.held(edit.conditionings)
            reached[number].update(held)
            steering.steps[number] += bool(held)
            for conditioning in held:
                rows = rows_of(conditioning, len(after), moment.branches())
                update = edited[rows] - before[rows]
                changed = edit(update, moment.grid)
                longest = float(update.norm(dim=-1).max())
                change = float((changed - update).norm(dim=-1).max()) / (longest or 1.0)
                steering.largest_change[number] = max(steering.largest_change[number], change)
                edited[rows] = before[rows] + changed
        return edited

    with hook_blocks(pipe, {path: path for path in paths}, visit):
        yield steering
    for number, branches in reached.items():
        if branches:  # it acted, but in two passes a branch of it may never have come
            check_conditionings(edits[number].conditionings, tuple(branches))
    for number, edit in enumerate(edits):
        if not steering.steps[number]:
            logger.warning(
                "edit %d at %s never acted: no step fell into its window %s; widen it or take more steps",
                number, edit.hookpoint, edit.window,
            )  # fmt: skip
        elif not steering.largest_change[number]:
            logger.warning(
                "edit %d at %s changed nothing: its latents were not active, or its strength is too small",
                number, edit.hookpoint,
            )  # fmt: skip


class _NormalisedTime:
    """t of a scheduler's timestep in the running call."""

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe
        self._timesteps: Tensor | None = None
        self._times: dict[float, float] = {}

    def at(self, timestep: float) -> float:
        timesteps = self.pipe.scheduler.timesteps
        if timesteps is not self._timesteps:
            self._timesteps = timesteps
            values = timesteps.tolist()
            self._times = {float(value): t_of(index, len(values)) for index, value in enumerate(values)}
        return self._times[float(timestep)]
