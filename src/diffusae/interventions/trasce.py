"""TraSCE (Jain et al., arXiv 2412.07658): guidance away from a concept, and latents moved away.

With the denoiser's predictions for no text e_u, for the prompt e_c and for the concept e_s:

- *Negative prompting.* The guided prediction is e_u + g (e_c - e_s). A negative prompt in the place
  of the empty one would give e_s + g (e_c - e_s), which is the concept itself where the prompt
  names it: e_c = e_s. Here the unconditional prediction is left there.
- *Localised guidance.* The latents of the step move by -scale times the gradient of
  -exp(-||e_c - e_s|| / sigma), with one norm a picture. It acts where the prompt is close to the
  concept.

The released code, which this follows, takes the step from the moved latents with the predictions
at the latents before. Its two factors (guidance_loss_scale, discriminator_guidance_scale) only
occur as their product, which is `scale` here. Its norm is over the whole batch, of one picture.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffusae.backbone.branches import replace_method
from diffusae.capture.conditions import conditions
from diffusae.errors import together
from diffusae.interventions.third_pass import PromptPass, Rule, third_pass


@dataclass(frozen=True)
class TrajectorySteering:
    """The settings.

    Attributes:
        scale: of the gradient, from 0; 0 leaves negative prompting alone. Released: 1.5 for nudity
            and violence, 1 for styles and objects.
        sigma: the distance at which the pull has fallen to 1/e, in the norm of a whole prediction,
            above 0. Released: 2 for nudity, 1 for violence and objects, .25 for styles.
    """

    scale: float
    sigma: float

    def __post_init__(self) -> None:
        together(
            f"{name}={value} must be a number {rule}; change it"
            for name, value, rule, holds in (
                ("scale", self.scale, "from 0", self.scale >= 0),
                ("sigma", self.sigma, "above 0", self.sigma > 0),
            )
            if not (math.isfinite(value) and holds)
        )


def trajectory_steering(
    pipe: Any, concept: str, settings: TrajectorySteering, **asked: Any
) -> AbstractContextManager[None]:
    """Steer every pipeline call made inside away from `concept`; see `third_pass`.

    Args:
        asked: as for `conditions`: guidance, height, width and the pipeline's other arguments.
    """
    described = conditions(pipe, [concept], "cond", **asked)
    return third_pass(pipe, _Steered(pipe.scheduler, described, settings))


def pull(cond: Tensor, concept: Tensor, sigma: float) -> Tensor:
    """-exp(-||e_c - e_s|| / sigma) of every picture, `[pictures]`, in (-1, 0]."""
    return -torch.exp(-(cond - concept).flatten(1).norm(dim=1) / sigma)


class _Steered(Rule):
    needs = "TraSCE"

    def __init__(
        self, scheduler: Any, described: Mapping[str, Any], settings: TrajectorySteering
    ) -> None:
        self._scheduler, self._described, self._settings = scheduler, described, settings
        self._move: Tensor | None = None

    @contextmanager
    def installed(self, pipe: Any) -> Iterator[None]:
        """The scheduler's step begins at the moved latents."""

        def moved(own: Any) -> Any:
            def step(model_output: Tensor, timestep: Any, sample: Tensor, *rest: Any, **given: Any):
                if self._move is not None:
                    sample, self._move = sample + self._move.to(sample.dtype), None
                return own(model_output, timestep, sample, *rest, **given)

            return step

        with ExitStack() as stack:
            replace_method(stack, pipe.scheduler, "step", moved)
            yield

    def begin(self) -> None:
        self._move = None

    def third(self, prompts: PromptPass) -> Tensor:
        """e_s; the move of the latents is kept for the scheduler's step."""
        if self._settings.scale == 0:
            return prompts.run(self._described)
        with torch.enable_grad():
            latents = prompts.latents.detach().requires_grad_()
            concept = prompts.run(self._described, latents)
            cond = prompts.run(prompts.conditions, latents)
            gradient = torch.autograd.grad(pull(cond, concept, self._settings.sigma).sum(), latents)
        self._move = -self._settings.scale * self._fed(prompts.now) * gradient[0]
        return concept.detach()

    def gamma(self, prompts: PromptPass, uncond: Tensor, cond: Tensor, third: Tensor) -> Tensor:
        """e_u + g (e_c - e_u - gamma) is the formula for this."""
        return third - uncond

    def _fed(self, timestep: float) -> float:
        """The scheduler divides latents before it feeds them; the gradient is by the latents."""
        if not hasattr(self._scheduler, "scale_model_input"):
            return 1.0
        return float(self._scheduler.scale_model_input(torch.ones(1), torch.tensor(timestep)))
