"""Where a running denoiser call is: its timestep, its guidance branches and its grid, read from the
call itself."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from diffusae.backbone.adapters import Adapter, adapter_of
from diffusae.backbone.branches import ToldBranches, told_branches
from diffusae.backbone.compiled import refuse_compiled
from diffusae.backbone.hookpoints import denoiser_of
from diffusae.backbone.layouts import Branches
from diffusae.backbone.schedule import RunningSchedule
from diffusae.errors import UserError


class Clock:
    """`now` is the scheduler's timestep of the running (or last) denoiser call; `visited` holds
    them all."""

    def __init__(self, pipe: Any, adapter: Adapter, branches: ToldBranches) -> None:
        self.now: float | None = None
        self.visited: list[float] = []
        self._pipe, self._adapter = pipe, adapter
        self.branches = branches
        """Called, it gives the guidance branches along the running call's batch."""
        self.schedule = RunningSchedule(pipe)
        """The scheduler's timesteps as they are now."""
        self.watchers: list[Callable[[], None]] = []
        """Called when a denoiser call begins, once this clock knows it."""
        self._given: Mapping[str, Any] = {}
        self._size: tuple[int, int] | None = None

    def strike(self, given: Mapping[str, Any]) -> None:
        """A denoiser call with these arguments begins.

        Raises:
            UserError: its rows have several timesteps, or, in a call of the pipeline, one that is
                not the scheduler's.
        """
        running = self.branches.call is not None
        told = self._adapter.timestep(self._pipe, given, running=running)
        now = _scalar(told)
        own = self.schedule.own(now, rounding=_rounding(told))
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
        if self._size is None:  # read once a call: an accelerator may have to be waited for
            self._size = self._adapter.size(self._given)
        return self._size


@contextmanager
def running_clock(pipe: Any, *, layout: Branches | None = None) -> Iterator[Clock]:
    """A `Clock` that follows every call of the pipeline's denoiser while the context lasts.

    It reads the call's own arguments, so that nothing has to be counted or reset between calls.
    `layout` names the branches along the batch in a loop of the caller's own over the denoiser.

    Raises:
        UserError: a compiled denoiser, on which hooks would do nothing; one that takes no time.
    """
    denoiser = denoiser_of(pipe)
    refuse_compiled(denoiser)
    adapter = adapter_of(pipe)
    if "timestep" not in inspect.signature(type(denoiser).forward).parameters:
        raise UserError(
            f"{type(denoiser).__name__} takes no `timestep`; it is not a denoiser that can be"
            " hooked"
        )
    branches = ToldBranches(pipe, layout)
    clock = Clock(pipe, adapter, branches)
    with told_branches(pipe, branches, then=clock.strike):
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
    """How far, relatively, a timestep may be from the scheduler's: what scaling it in its dtype
    loses, forth and back."""
    if isinstance(timestep, Tensor) and timestep.is_floating_point():
        return 2 * torch.finfo(timestep.dtype).eps
    return 0.0
