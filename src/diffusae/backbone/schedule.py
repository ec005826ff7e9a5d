"""Normalised time t, step indices and a scheduler's own timesteps.

Time t runs from 1.0, the first reverse step, to 0.0, the last ("Emergence", arXiv 2504.15473,
section 3). With N steps, step i has t = 1 - i / (N - 1).
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
"""Added so that decimal ties stay ties: (1 - 0.9) * 5 is 0.49999999999999994 in floating point."""


def step_index(t: float, steps: int) -> int:
    """The index in [0, steps) of the reverse step nearest to `t` in [0, 1]. Ties go to the later
    step.

    Example: with 5 steps, t = 0.6 gives 0.4 * 4 = 1.6, which rounds to index 2.
    """
    _check_steps(steps)
    if not 0.0 <= t <= 1.0:
        raise UserError(f"t={t} lies outside [0, 1]; 1.0 is the first reverse step, 0.0 the last")
    return min(math.floor((1.0 - t) * (steps - 1) + 0.5 + _ROUNDING), steps - 1)


def t_of(index: int, steps: int) -> float:
    """The time in [0, 1] of the reverse step `index`. A single step has t = 1.0."""
    _check_steps(steps)
    if not 0 <= index < steps:
        raise UserError(f"step index {index} lies outside [0, {steps}); {steps} steps count from 0")
    return 1.0 if steps == 1 else 1.0 - index / (steps - 1)


Schedule = Callable[[Any, int], "torch.Tensor"]
"""(scheduler, steps) -> the scheduler's timesteps in a run of `steps` steps. Changes no
scheduler."""


def plain_schedule(scheduler: Any, steps: int) -> torch.Tensor:
    """The timesteps of a scheduler that needs only their number."""
    own = copy.deepcopy(scheduler)
    own.set_timesteps(steps)
    return own.timesteps


def timestep_at(
    scheduler: Any, steps: int, t: float, *, schedule: Schedule = plain_schedule
) -> float:
    """The scheduler's own timestep of the step nearest to `t`, in a run of `steps` steps.

    `schedule` is the pipeline's own if it depends on the picture's size. `UserError` for schedulers
    that call the denoiser more than once per step (PNDM, Heun): calls would share a timestep.
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
            f"{type(scheduler).__name__} calls the denoiser {len(timesteps)} times for {steps} "
            f"steps, at {len(timesteps.unique())} timesteps; hooks need one call and one timestep "
            "per step: use DDIM"
        )
    return timesteps[index].item()


class RunningSchedule:
    """The current timesteps of the pipeline's scheduler. Every pipeline call sets new ones.

    Args:
        pipe: the scheduler's owner. It may have no scheduler, if it only holds a denoiser for the
            caller's own loop.
    """

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe
        self._seen: Any = None
        self._times: dict[float, float] = {}

    def own(self, timestep: float, error: float) -> float | None:
        """The scheduler's timestep that equals `timestep` up to a rounding `error`; None if none
        does.

        Raises:
            UserError: several timesteps do.
        """
        times = self._read()
        if timestep in times:
            return timestep
        rounded = [time for time in times if abs(time - timestep) <= error]
        if len(rounded) > 1:
            raise UserError(
                f"the denoiser's time {timestep:g} may be any of the scheduler's timesteps "
                f"{', '.join(f'{time:g}' for time in rounded)}, which round to it; take fewer "
                "steps or model.dtype=float32"
            )
        return rounded[0] if rounded else None

    def t(self, timestep: float) -> float:
        """Normalised time of a timestep of the scheduler: 1 - i / (N - 1), over distinct timesteps.

        Raises:
            UserError: the scheduler has no such timestep.
        """
        times = self._read()
        if timestep not in times:
            raise self.missing(timestep)
        return times[timestep]

    def index(self, timestep: float) -> tuple[int, int]:
        """(i, N): the place of a timestep among the scheduler's distinct timesteps, and their
        number."""
        self.t(timestep)
        return list(self._times).index(timestep), len(self._times)

    def missing(self, timestep: float) -> UserError:
        """The error for a time that is not among the scheduler's timesteps."""
        times, kind = list(self._read()), type(getattr(self._pipe, "scheduler", None)).__name__
        known = f"{len(times)} from {times[0]:g} to {times[-1]:g}" if times else "none"
        return UserError(
            f"the denoiser of {type(self._pipe).__name__} is given the time {timestep:g}, which is "
            f"none of the timesteps of its {kind} ({known}); call scheduler.set_timesteps first, "
            "or use one of the pipelines in docs/models.md"
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
