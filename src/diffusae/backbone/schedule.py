"""Normalised time, step indices and a scheduler's own timesteps.

Time t runs from 1.0, the first reverse step, to 0.0, the last ("Emergence", arXiv 2504.15473, section 3):
with N steps the step with index i has t = 1 - i / (N - 1).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch

from diffusae.errors import UserError

_ROUNDING = 1e-9
"""Slack that keeps decimal ties ties: (1 - 0.9) * 5 is 0.49999999999999994 in floating point."""


def step_index(t: float, steps: int) -> int:
    """The index in [0, steps) of the reverse step nearest to `t` in [0, 1]; a tie goes to the later step."""
    _check_steps(steps)
    if not 0.0 <= t <= 1.0:
        raise UserError(f"t={t} lies outside [0, 1]; 1.0 is the first reverse step and 0.0 the last")
    return min(math.floor((1.0 - t) * (steps - 1) + 0.5 + _ROUNDING), steps - 1)


def t_of(index: int, steps: int) -> float:
    """The time in [0, 1] of the reverse step `index`; the only step of a one-step run has t = 1.0."""
    _check_steps(steps)
    if not 0 <= index < steps:
        raise UserError(f"step index {index} lies outside [0, {steps}); {steps} steps count from 0")
    return 1.0 if steps == 1 else 1.0 - index / (steps - 1)


Schedule = Callable[[Any, int], torch.Tensor]
"""schedule(scheduler, steps) -> the scheduler's timesteps in a run of `steps` steps; the scheduler is left as it is."""


def plain_schedule(scheduler: Any, steps: int) -> torch.Tensor:
    """The timesteps of a scheduler that needs to know no more than their number."""
    own = copy.deepcopy(scheduler)
    own.set_timesteps(steps)
    return own.timesteps


def timestep_at(scheduler: Any, steps: int, t: float, *, schedule: Schedule = plain_schedule) -> float:
    """The value that `scheduler` itself gives to the step nearest to `t`, in a run of `steps` steps.

    A pipeline whose schedule depends on the picture's size gives its own `schedule`. `UserError` for one that calls the denoiser more often than once a step
    (PNDM, Heun), since a timestep would not tell its calls apart.
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
            f"{type(scheduler).__name__} calls the denoiser {len(timesteps)} times for {steps} steps, at "
            f"{len(timesteps.unique())} timesteps; hooks need one call and one timestep a step: use DDIM"
        )
    return timesteps[index].item()


def _check_steps(steps: int) -> None:
    if steps < 1:
        raise UserError(f"steps={steps} is below 1; a run takes at least one step")
