"""Safe latent guidance (SLD, Schramowski et al., arXiv 2211.05105): a third branch of guidance that leads away from a concept.

With the denoiser's predictions for no text e_u, for the prompt e_c and for the concept e_s, the guided prediction becomes

    e_u + g (e_c - e_u - gamma),   gamma = mu * (e_s - e_u) + s_m nu          (eq. 3, 5-7)
    mu = min(1, |s_s (e_c - e_s)|) where e_c - e_s < lambda, else 0           (elementwise)
    nu' = beta nu + (1 - beta) gamma,  nu = 0 at the first step               (eq. 8)

and gamma counts only after the warm-up, while nu is gathered from the first step on. The paper prints max(1, .) in mu, its code and
diffusers' `StableDiffusionPipelineSafe` have min: so has this. That pipeline is deprecated and takes Stable Diffusion 1 only; here e_c - gamma
is given to the pipeline in e_c's place, so its own guidance makes the formula of it, whatever the pipeline.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffusae.backbone.adapters import adapter_of
from diffusae.backbone.branches import GUIDED, rows_of
from diffusae.capture.clock import running_clock
from diffusae.capture.conditions import conditions
from diffusae.errors import UserError, unknown


@dataclass(frozen=True)
class SafeGuidance:
    """The settings.

    Attributes:
        scale: s_s, how soon a difference counts in full; 0 does nothing.
        threshold: lambda, in the denoiser's units: above it the prompt leads away from the concept by itself.
        warmup: share of the steps before it acts, range [0, 1]; the paper's are steps of 50.
        momentum: s_m.
        beta: of the momentum, range [0, 1].
    """

    scale: float
    threshold: float
    warmup: float
    momentum: float
    beta: float


PRESETS: Mapping[str, SafeGuidance] = {
    "weak": SafeGuidance(20, 0.0, 15 / 50, 0.0, 0.0),
    "medium": SafeGuidance(1000, 0.01, 10 / 50, 0.3, 0.4),
    "strong": SafeGuidance(2000, 0.025, 7 / 50, 0.5, 0.7),
    "max": SafeGuidance(5000, 1.0, 0.0, 0.5, 0.7),
}
"""The paper's four, from the weakest to the strongest."""


def preset(name: str) -> SafeGuidance:
    """The settings of a name; `UserError` for an unknown one."""
    if name not in PRESETS:
        raise unknown("safe guidance", name, PRESETS)
    return PRESETS[name]


def safety_term(
    uncond: Tensor, cond: Tensor, concept: Tensor, momentum: Tensor, settings: SafeGuidance
) -> tuple[Tensor, Tensor]:
    """(gamma, the next nu) of predictions of one shape; `momentum` is nu."""
    away = cond - concept
    mu = torch.where(away < settings.threshold, (settings.scale * away).abs().clamp(max=1.0), 0.0)
    gamma = mu * (concept - uncond) + settings.momentum * momentum
    return gamma, settings.beta * momentum + (1 - settings.beta) * gamma


@contextmanager
def safe_guidance(
    pipe: Any,
    concept: str,
    settings: SafeGuidance,
    **asked: Any,
) -> Iterator[None]:
    """Guide every pipeline call made inside away from `concept`; the denoiser is itself again afterwards.

    It runs a second, smaller pass a step; do not combine it with edits of updates, which would act in that one too.

    Args:
        asked: as for `conditions`: guidance, height, width and what else the pipeline is given.

    Raises:
        UserError: the pipeline does not guide in one batch [uncond, cond].
    """
    adapter = adapter_of(pipe)
    denoiser, latents_name = adapter.denoiser, adapter.varying[0]
    described = conditions(pipe, [concept], "cond", **asked)
    run = denoiser.forward
    state: dict[str, Tensor] = {}

    with running_clock(pipe) as clock:

        def forward(*args: Any, **kwargs: Any) -> Any:
            if clock.branches() != GUIDED:
                raise UserError(
                    "safe guidance needs classifier-free guidance in one batch [uncond, cond]; leave it out for this model, "
                    "or raise model.guidance above 1"
                )
            given = adapter.given(args, kwargs)
            output = run(*args, **kwargs)
            sample = output[0]
            uncond, cond = (sample[rows_of(each, len(sample), GUIDED)].float() for each in GUIDED)
            third = {
                **_for_pictures(described, len(cond)),
                latents_name: given[latents_name][rows_of("cond", len(sample), GUIDED)],
                "timestep": given["timestep"],
                "return_dict": False,
            }
            aimed = run(**third)[0].float()
            index = _index(pipe.scheduler, clock.now)
            if index == 0 or "nu" not in state:
                state["nu"] = torch.zeros_like(cond)
            gamma, state["nu"] = safety_term(uncond, cond, aimed, state["nu"], settings)
            if index < settings.warmup * len(pipe.scheduler.timesteps):
                return output
            guided = torch.cat([sample[: len(uncond)], (cond - gamma).to(sample.dtype)])
            return (guided, *output[1:])

        denoiser.forward = forward
        try:
            yield
        finally:
            del denoiser.forward


def _index(scheduler: Any, timestep: float | None) -> int:
    return [float(each) for each in scheduler.timesteps].index(float(timestep or 0.0))


def _for_pictures(described: Mapping[str, Any], count: int) -> dict[str, Any]:
    """One prompt's arguments of the denoiser, for `count` pictures."""

    def repeated(value: Any) -> Any:
        if isinstance(value, Tensor) and value.ndim and len(value) == 1:
            return value.expand(count, *value.shape[1:])
        if isinstance(value, dict):
            return {name: repeated(each) for name, each in value.items()}
        return value

    return {name: repeated(value) for name, value in described.items()}
