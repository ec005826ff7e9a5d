"""Safe latent guidance (SLD, Schramowski et al., arXiv 2211.05105): guidance away from a concept.

With the denoiser's predictions for no text e_u, for the prompt e_c and for the concept e_s, the
guided prediction becomes

    e_u + g (e_c - e_u - gamma),   gamma = mu * (e_s - e_u) + s_m nu          (eq. 3, 5-7)
    mu = min(1, |s_s (e_c - e_s)|) where e_c - e_s < lambda, else 0           (elementwise)
    nu' = beta nu + (1 - beta) gamma,  nu = 0 at the first step               (eq. 8)

gamma counts only after the warm-up; nu is updated from the first step on. The paper prints
max(1, .) in mu, but its code and diffusers' `StableDiffusionPipelineSafe` have min, and so has this
module. That pipeline is deprecated and takes Stable Diffusion 1 only.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffusae.capture.conditions import conditions
from diffusae.errors import unknown
from diffusae.interventions.third_pass import PromptPass, Rule, third_pass


@dataclass(frozen=True)
class SafeGuidance:
    """The settings.

    Attributes:
        scale: s_s: the larger, the smaller the difference that counts in full; 0 does nothing.
        threshold: lambda, in the denoiser's units: where e_c - e_s is above it, the prompt leads
            away from the concept by itself.
        warmup: share of the steps before it acts, range [0, 1]; the paper counts steps of 50.
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


def safe_guidance(
    pipe: Any, concept: str, settings: SafeGuidance, **asked: Any
) -> AbstractContextManager[None]:
    """Guide every pipeline call made inside away from `concept`; see `third_pass`.

    Args:
        asked: as for `conditions`: guidance, height, width and the pipeline's other arguments.

    Raises:
        UserError: the call runs without guidance, or its rows are not known.
    """
    described = conditions(pipe, [concept], "cond", **asked)
    return third_pass(pipe, _Safe(described, settings))


class _Safe(Rule):
    needs = "safe guidance"

    def __init__(self, described: Mapping[str, Any], settings: SafeGuidance) -> None:
        self._described, self._settings = described, settings
        self._momentum: Tensor | None = None

    def begin(self) -> None:
        self._momentum = None

    def third(self, prompts: PromptPass) -> Tensor:
        """e_s: the prediction for the concept on the prompts' latents."""
        return prompts.run(self._described)

    def gamma(
        self, prompts: PromptPass, uncond: Tensor, cond: Tensor, third: Tensor
    ) -> Tensor | None:
        """None during the warm-up; the momentum is updated in any case."""
        momentum = torch.zeros_like(cond) if self._momentum is None else self._momentum
        gamma, self._momentum = safety_term(uncond, cond, third, momentum, self._settings)
        return None if prompts.index < self._settings.warmup * prompts.count else gamma
