"""Where the steps of a generation lie: a scheduler whose steps are moved by a log-SNR.

The noise that hides an object depends on how many latent entries it covers. With n x n latents in
the place of 64 x 64, an object covers (64/n)^2 times fewer. So step i of a schedule made for 64 x
64 has the same effect at the timestep whose log-SNR is higher by 2 log(64/n) (the shift of noise
schedules with resolution, arXiv 2301.11093 and 2403.03206).
"""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from numpy.typing import NDArray

from diffusae.errors import UserError

_OTHER_SIGMAS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "shift_terminal")
"""Settings of flow-matching schedulers that place steps after the shift."""


def moved_steps(scheduler: Any, log_snr_shift: float) -> Any:
    """A scheduler like this one, each of whose steps has a log-SNR that is higher by
    `log_snr_shift`. 0 gives the scheduler itself.

    The model sees only timesteps that it was trained on. Where the shift leads out of them, steps
    stay at the schedule's end, each at a timestep of its own.

    Raises:
        UserError: a scheduler other than DDIM and flow-matching Euler, or one whose steps are
            placed by further rules.
    """
    if not log_snr_shift:
        return scheduler
    name = type(scheduler).__name__
    if isinstance(scheduler, DDIMScheduler):
        if scheduler.config.get("clip_sample"):
            raise UserError(f"{name} clips samples, so its {_CANNOT}")
        return MovedDDIM.of(scheduler, log_snr_shift)
    if not isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        raise UserError(
            f"{name}: its {_CANNOT}; a model with a noise schedule can take model.scheduler=ddim"
        )
    ruled = [rule for rule in _OTHER_SIGMAS if scheduler.config.get(rule)]
    if ruled or scheduler.config.get("time_shift_type", "exponential") != "exponential":
        rule = ruled[0] if ruled else "time_shift_type"
        raise UserError(f"{name} with {rule}: its {_CANNOT}")
    return MovedFlow.of(scheduler, log_snr_shift)


_CANNOT = "steps cannot be moved; set model.log_snr_shift=0"


class MovedFlow(FlowMatchEulerDiscreteScheduler):
    """Flow matching has log-SNR = 2 log((1 - sigma) / sigma), and a shift of s takes sigma to
    s sigma / (1 + (s - 1) sigma), which lowers it by 2 log s. A pipeline that shifts by the
    picture's size gives mu = log s.
    """

    _by: float

    @classmethod
    def of(cls, scheduler: Any, log_snr_shift: float) -> MovedFlow:
        by = -log_snr_shift / 2
        made: Any = cls.from_config(scheduler.config)
        made.set_shift(scheduler.shift * math.exp(by))
        made._by = by
        return made

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        sigmas: list[float] | None = None,
        mu: float | None = None,
        timesteps: list[float] | None = None,
    ) -> None:
        moved = None if mu is None else mu + self._by
        super().set_timesteps(num_inference_steps, device, sigmas, moved, timesteps)


class MovedDDIM(DPMSolverMultistepScheduler):
    """DDIM's steps at other timesteps. Diffusers' own DDIM takes evenly spaced timesteps alone.
    DPM-Solver++ of first order makes the same step (arXiv 2211.01095, section 4) at any.
    """

    _ddim: DDIMScheduler
    _shift: float

    @classmethod
    def of(cls, ddim: DDIMScheduler, log_snr_shift: float) -> MovedDDIM:
        final = "zero" if ddim.config.get("set_alpha_to_one", True) else "sigma_min"
        made: Any = cls.from_config(
            ddim.config, algorithm_type="dpmsolver++", solver_order=1, final_sigmas_type=final
        )
        made._ddim, made._shift = ddim, log_snr_shift
        return made

    def set_timesteps(  # type: ignore[override]
        self, num_inference_steps: int, device: Any = None, **_: Any
    ) -> None:
        own = copy.deepcopy(self._ddim)
        own.set_timesteps(num_inference_steps)
        log_snr = torch.log(own.alphas_cumprod / (1 - own.alphas_cumprod))
        timesteps = moved_timesteps(own.timesteps.numpy(), log_snr.numpy(), self._shift)
        super().set_timesteps(timesteps=timesteps.tolist(), device=device)


def moved_timesteps(
    timesteps: NDArray[np.int64], log_snr: NDArray[np.floating], shift: float
) -> NDArray[np.int64]:
    """The timesteps whose log-SNR is nearest to that of `timesteps` plus `shift`.

    No two are equal: near an end they lie side by side. Example: with log_snr = -timestep and a
    shift of 5, the timesteps 9, 6, 3, 1 go to 4, 3, 2, 1: the last three could go no lower.

    Args:
        timesteps: falling.
        log_snr: of every timestep of the training, falling.
    """
    wanted = np.interp(log_snr[timesteps] + shift, log_snr[::-1], np.arange(len(log_snr))[::-1])
    place = np.arange(len(timesteps))
    lowest = timesteps[-1] + place[::-1]
    highest = len(log_snr) - 1 - place
    moved = np.clip(np.rint(wanted).astype(np.int64), lowest, highest)
    # Falling by one at least means that timestep + place never rises.
    return np.maximum.accumulate((moved + place)[::-1])[::-1] - place
