"""Normalised time, step indices and a scheduler's own timesteps.

Time t runs from 1.0, the first reverse step, to 0.0, the last ("Emergence", arXiv 2504.15473,
section 3): with N steps the step with index i has t = 1 - i / (N - 1).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from diffusae.errors import UserError

if TYPE_CHECKING:
    import torch

_ROUNDING = 1e-9
"""Slack that keeps decimal ties ties: (1 - 0.9) * 5 is 0.49999999999999994 in floating point."""


def step_index(t: float, steps: int) -> int:
    """The index in [0, steps) of the reverse step nearest to `t` in [0, 1]; a tie goes to the later
    step.
    """
    _check_steps(steps)
    if not 0.0 <= t <= 1.0:
        raise UserError(
            f"t={t} lies outside [0, 1]; 1.0 is the first reverse step and 0.0 the last"
        )
    return min(math.floor((1.0 - t) * (steps - 1) + 0.5 + _ROUNDING), steps - 1)


def t_of(index: int, steps: int) -> float:
    """The time in [0, 1] of the reverse step `index`; the only step of a one-step run has t =
    1.0.
    """
    _check_steps(steps)
    if not 0 <= index < steps:
        raise UserError(f"step index {index} lies outside [0, {steps}); {steps} steps count from 0")
    return 1.0 if steps == 1 else 1.0 - index / (steps - 1)


Schedule = Callable[[Any, int], "torch.Tensor"]
"""schedule(scheduler, steps) -> the scheduler's timesteps in a run of `steps` steps; the scheduler
is left as it is.
"""


def plain_schedule(scheduler: Any, steps: int) -> torch.Tensor:
    """The timesteps of a scheduler that needs to know no more than their number."""
    own = copy.deepcopy(scheduler)
    own.set_timesteps(steps)
    return own.timesteps


def timestep_at(
    scheduler: Any, steps: int, t: float, *, schedule: Schedule = plain_schedule
) -> float:
    """The value that `scheduler` itself gives to the step nearest to `t`, in a run of `steps`
    steps.

    A pipeline whose schedule depends on the picture's size gives its own `schedule`. `UserError`
    for one that calls the denoiser more often than once a step (PNDM, Heun), since a timestep would
    not tell its calls apart.
    """
    index = step_index(t, steps)
    try:
        timesteps = schedule(scheduler, steps)
    except ValueError as error:
        raise UserError(
            f"{type(scheduler).__name__} cannot take {steps} steps; lower the number of steps"
        ) from error
    if len(timesteps) != steps or len(timesteps.unique()) != steps:
        raise UserError(
            f"{type(scheduler).__name__} calls the denoiser {len(timesteps)} times for {steps}"
            f" steps, at {len(timesteps.unique())} timesteps; hooks need one call and one timestep"
            " a step: use DDIM"
        )
    return timesteps[index].item()


class RunningSchedule:
    """The timesteps of the pipeline's scheduler as they are now: a call sets them anew.

    Args:
        pipe: whose scheduler is read; it may have none, as the holder of a denoiser in a loop of
            the caller's own.
    """

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe
        self._seen: Any = None
        self._times: dict[float, float] = {}

    def own(self, timestep: float, *, rounding: float) -> float | None:
        """The scheduler's timestep that a denoiser was given as `timestep`, up to relative
        `rounding`; None where there is none.

        Raises:
            UserError: several timesteps round to this one.
        """
        times = self._read()
        if timestep in times:
            return timestep
        near = [each for each in times if abs(each - timestep) <= rounding * abs(timestep)]
        if len(near) > 1:
            raise UserError(
                f"the denoiser's time {timestep:g} may be any of the scheduler's timesteps"
                f" {', '.join(f'{each:g}' for each in near)}, which round to it; take fewer steps"
                " or model.dtype=float32"
            )
        return near[0] if near else None

    def t(self, timestep: float) -> float:
        """Normalised time of one of the scheduler's own timesteps: 1 - i / (N - 1), over those that
        differ.

        Raises:
            UserError: the scheduler has no such timestep.
        """
        times = self._read()
        if timestep not in times:
            raise self.missing(timestep)
        return times[timestep]

    def index(self, timestep: float) -> tuple[int, int]:
        """(i, N): the place of one of the scheduler's own timesteps among those that differ, and
        their number.
        """
        self.t(timestep)
        return list(self._times).index(timestep), len(self._times)

    def missing(self, timestep: float) -> UserError:
        """The error for a time that is none of the scheduler's."""
        times, kind = list(self._read()), type(getattr(self._pipe, "scheduler", None)).__name__
        known = f"{len(times)} from {times[0]:g} to {times[-1]:g}" if times else "none"
        return UserError(
            f"the denoiser of {type(self._pipe).__name__} is given the time {timestep:g}, which is"
            f" none of the timesteps of its {kind} ({known}); call scheduler.set_timesteps first,"
            " or use one of the pipelines in docs/models.md"
        )

    def _read(self) -> dict[float, float]:
        import torch

        now = getattr(getattr(self._pipe, "scheduler", None), "timesteps", None)
        if now is not self._seen:
            self._seen = now
            values = dict.fromkeys([] if now is None else torch.as_tensor(now).tolist())
            self._times = {
                float(value): t_of(index, len(values)) for index, value in enumerate(values)
            }
        return self._times


def _check_steps(steps: int) -> None:
    if steps < 1:
        raise UserError(f"steps={steps} is below 1; a run takes at least one step")
