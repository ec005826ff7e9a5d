"""The timestep, guidance branches and grid of a running denoiser call, read from its arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from diffusae.backbone.adapters import Adapter, adapter_of
from diffusae.backbone.branches import BranchCounter, counted_branches
from diffusae.backbone.compiled import refuse_compiled
from diffusae.backbone.hookpoints import denoiser_of
from diffusae.backbone.layouts import Branches
from diffusae.backbone.schedule import RunningSchedule
from diffusae.errors import UserError


class Clock:
    """`now` is the scheduler's timestep of the running (or last) denoiser call; `visited` has
    all."""

    def __init__(self, pipe: Any, adapter: Adapter, branches: BranchCounter) -> None:
        self.now: float | None = None
        self.visited: list[float] = []
        self._pipe, self._adapter = pipe, adapter
        self.branches = branches
        """A call of it gives the guidance branches along the running call's batch."""
        self.schedule = RunningSchedule(pipe)
        """The scheduler's current timesteps."""
        self.watchers: list[Callable[[], None]] = []
        """Functions that are called when a denoiser call begins, after this clock."""
        self._given: Mapping[str, Any] = {}
        self._size: tuple[int, int] | None = None

    def begin_call(self, given: Mapping[str, Any]) -> None:
        """Note the begin of a denoiser call with these arguments.

        Raises:
            UserError: its rows have several timesteps, or the timestep of a pipeline call is not
                the scheduler's.
        """
        running = self.branches.call is not None
        time = self._adapter.timestep(self._pipe, given, running=running)
        now = _scalar(time)
        own = self.schedule.own(now, rounding=_rounding(time))
        if running and own is None:
            raise self.schedule.missing(now)
        self.now = now if own is None else own
        self.visited.append(self.now)
        self._given, self._size = given, None
        for watcher in self.watchers:
            watcher()

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) of the running call's finest grid."""
        if self._size is None:  # read once per call, since it may wait for a GPU
            self._size = self._adapter.size(self._given)
        return self._size


@contextmanager
def running_clock(pipe: Any, *, layout: Branches | None = None) -> Iterator[Clock]:
    """Within the context, a `Clock` that follows every call of the pipeline's denoiser.

    It reads the arguments of a call, so nothing is counted or reset between calls. `layout` names
    the branches along the batch in the caller's own loop.

    Raises:
        UserError: the denoiser is compiled, so hooks would do nothing, or has no `timestep`.
    """
    denoiser = denoiser_of(pipe)
    refuse_compiled(denoiser)
    adapter = adapter_of(pipe)
    if "timestep" not in inspect.signature(type(denoiser).forward).parameters:
        raise UserError(
            f"{type(denoiser).__name__} takes no `timestep`, so it cannot be hooked; use another "
            "model"
        )
    branches = BranchCounter(pipe, layout)
    clock = Clock(pipe, adapter, branches)
    with counted_branches(pipe, branches, then=clock.begin_call):
        yield clock


def _scalar(timestep: Tensor | float) -> float:
    if not isinstance(timestep, Tensor):
        return timestep
    if timestep.numel() == 1:
        return timestep.item()
    values = torch.unique(timestep)
    if len(values) != 1:
        raise UserError(
            f"the batch mixes {len(values)} timesteps; a hooked call needs one for all its rows"
        )
    return values.item()


def _rounding(timestep: Tensor | float) -> float:
    """The largest relative rounding error of a timestep that was scaled twice in its dtype."""
    if isinstance(timestep, Tensor) and timestep.is_floating_point():
        return 2 * torch.finfo(timestep.dtype).eps
    return 0.0
