"""The timestep, guidance branches and grid of a running denoiser call, read from its arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from diffusae.backbone.adapters import Adapter
from diffusae.backbone.blocks import Grid
from diffusae.backbone.branches import BranchCounter, counted_branches
from diffusae.backbone.compiled import refuse_compiled
from diffusae.backbone.families.table import adapter_of
from diffusae.backbone.hookpoints import denoiser_of
from diffusae.backbone.passes import Branches
from diffusae.backbone.schedule import RunningSchedule


class Clock:
    """`now` is the scheduler's timestep of the running (or last) denoiser call; `visited` has
    all."""

    def __init__(self, pipe: Any, adapter: Adapter, branches: BranchCounter) -> None:
        self.now: float | None = None
        self.visited: list[float] = []
        self._pipe, self.adapter = pipe, adapter
        self.branches = branches
        """A call of it gives the guidance branches along the running call's batch."""
        self.schedule = RunningSchedule(pipe)
        """The scheduler's current timesteps."""
        self.watchers: list[Callable[[], None]] = []
        """Functions that are called when a denoiser call begins, after this clock."""
        self.given: Mapping[str, Any] = {}
        """The arguments of the running call by name."""
        self._size: Grid | None = None

    def begin_call(self, given: Mapping[str, Any]) -> None:
        """Note the begin of a denoiser call with these arguments.

        Raises:
            UserError: its rows have several timesteps, or the timestep of a pipeline call is not
                the scheduler's.
        """
        running = self.branches.call is not None
        now, error = self.adapter.timestep(self._pipe, given, running=running)
        own = self.schedule.own(now, error)
        if running and own is None:
            raise self.schedule.missing(now)
        self.now = now if own is None else own
        self.visited.append(self.now)
        self.given, self._size = given, None
        for watcher in self.watchers:
            watcher()

    @property
    def size(self) -> Grid:
        """Of the running call's finest grid."""
        if self._size is None:  # read once per call, since it may wait for a GPU
            self._size = self.adapter.size(self.given)
        return self._size


@contextmanager
def running_clock(pipe: Any, *, layout: Branches | None = None) -> Iterator[Clock]:
    """Within the context, a `Clock` that follows every call of the pipeline's denoiser.

    It reads the arguments of a call, so nothing is counted or reset between calls. `layout` names
    the branches along the batch in the caller's own loop.

    Raises:
        UserError: the denoiser is compiled, so hooks would do nothing, or takes no time.
    """
    denoiser = denoiser_of(pipe)
    refuse_compiled(denoiser)
    adapter = adapter_of(pipe)
    adapter.varying  # noqa: B018  (raises for a denoiser that takes no time)
    branches = BranchCounter(pipe, layout)
    clock = Clock(pipe, adapter, branches)
    with counted_branches(pipe, branches, then=clock.begin_call):
        yield clock
