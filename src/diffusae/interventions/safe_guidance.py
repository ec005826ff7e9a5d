"""Safe latent guidance (SLD, Schramowski et al., arXiv 2211.05105): guidance away from a concept.

With the denoiser's predictions for no text e_u, for the prompt e_c and for the concept e_s, the
guided prediction becomes

    e_u + g (e_c - e_u - gamma),   gamma = mu * (e_s - e_u) + s_m nu          (eq. 3, 5-7)
    mu = min(1, |s_s (e_c - e_s)|) where e_c - e_s < lambda, else 0           (elementwise)
    nu' = beta nu + (1 - beta) gamma,  nu = 0 at the first step               (eq. 8)

gamma counts only after the warm-up; nu is updated from the first step on. The paper prints
max(1, .) in mu, but its code and diffusers' `StableDiffusionPipelineSafe` have min, and so has this
module.
That pipeline is deprecated and takes Stable Diffusion 1 only. Here the pipeline gets e_c - gamma in
place of e_c, so that its own guidance gives the formula, whatever the pipeline.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from diffusae.backbone.adapters import Adapter, adapter_of
from diffusae.backbone.branches import rows_of
from diffusae.backbone.calls import Call
from diffusae.capture.clock import Clock, running_clock
from diffusae.capture.conditions import conditions
from diffusae.errors import UserError, unknown


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


@contextmanager
def safe_guidance(pipe: Any, concept: str, settings: SafeGuidance, **asked: Any) -> Iterator[None]:
    """Guide every pipeline call made inside away from `concept`; afterwards all is as before.

    It runs a second, smaller pass at every step. Do not combine it with edits of updates, which
    would act in that pass too. Some pipelines (FLUX) run guidance in two passes, first `cond`, then
    `uncond`: e_c is gone when e_u comes. There, e_u becomes e_u + g gamma / (g - 1), with the true
    guidance scale g, which gives the same guided prediction.

    Args:
        asked: as for `conditions`: guidance, height, width and the pipeline's other arguments.

    Raises:
        UserError: the call runs without guidance, or its rows are not known.
    """
    adapter = adapter_of(pipe)
    described = conditions(pipe, [concept], "cond", **asked)
    with running_clock(pipe) as clock:
        third = _Third(adapter, described, clock, settings)
        handle = adapter.denoiser.register_forward_hook(third, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()


class _Third:
    """A hook on the denoiser: adds the pass for the concept and changes what guidance gets."""

    def __init__(
        self, adapter: Adapter, described: Mapping[str, Any], clock: Clock, settings: SafeGuidance
    ) -> None:
        self._adapter, self._described = adapter, described
        self._clock, self._settings = clock, settings
        self._call: Call | None = None
        self._momentum: Tensor | None = None
        self._first: tuple[Tensor, Tensor] | None = None
        """e_c and e_s, of the first of two passes."""

    def __call__(
        self, denoiser: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> Any:
        layout = self._clock.branches
        branches = layout()
        if "uncond" not in layout.all:
            raise UserError(
                "safe guidance needs classifier-free guidance, in one batch [uncond, cond] or in"
                " two passes; leave it out for this model, or raise model.guidance (FLUX:"
                " model.true_guidance) above 1"
            )
        if layout.call is not self._call:
            self._call, self._momentum = layout.call, None
        sample = output[0]
        part = {name: sample[rows_of(name, len(sample), branches)].float() for name in branches}
        if "cond" in part:
            rows = rows_of("cond", len(sample), branches)
            concept = self._concept(denoiser, self._adapter.given(args, kwargs), rows)
            self._first = (part["cond"], concept)
        if "uncond" not in part or self._first is None:
            return None
        gamma = self._gamma(part["uncond"], *self._first)
        if gamma is None:
            return None
        if "cond" in part:
            changed, where = part["cond"] - gamma, rows_of("cond", len(sample), branches)
        else:
            assert layout.call is not None  # only a pipeline's own call is known to have two passes
            scale = layout.call.arguments["true_cfg_scale"]
            changed, where = part["uncond"] + scale / (scale - 1) * gamma, slice(None)
        guided = sample.clone()
        guided[where] = changed.to(sample.dtype)
        return (guided, *output[1:]) if isinstance(output, tuple) else type(output)(sample=guided)

    def _concept(self, denoiser: nn.Module, given: Mapping[str, Any], rows: slice) -> Tensor:
        """e_s: the prediction for the concept on the prompt's latents. `forward` runs no hooks."""
        latents, time = (given[name] for name in self._adapter.varying)
        one_each = isinstance(time, Tensor) and time.ndim and len(time) > 1
        inputs = {
            **_for_pictures(self._described, rows.stop - rows.start),
            self._adapter.varying[0]: latents[rows],
            "timestep": time[rows] if one_each else time,
            "return_dict": False,
        }
        return denoiser.forward(**inputs)[0].float()

    def _gamma(self, uncond: Tensor, cond: Tensor, concept: Tensor) -> Tensor | None:
        """gamma of the step, None during the warm-up; the momentum is updated in any case."""
        momentum = torch.zeros_like(cond) if self._momentum is None else self._momentum
        gamma, self._momentum = safety_term(uncond, cond, concept, momentum, self._settings)
        assert self._clock.now is not None
        index, count = self._clock.schedule.index(self._clock.now)
        return None if index < self._settings.warmup * count else gamma


def _for_pictures(described: Mapping[str, Any], count: int) -> dict[str, Any]:
    """The denoiser's arguments for one prompt, repeated for `count` pictures."""

    def repeated(value: Any) -> Any:
        if isinstance(value, Tensor) and value.ndim and len(value) == 1:
            return value.expand(count, *value.shape[1:])
        if isinstance(value, dict):
            return {name: repeated(part) for name, part in value.items()}
        return value

    return {name: repeated(value) for name, value in described.items()}
