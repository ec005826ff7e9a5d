"""A third pass of the denoiser at every step, which changes what guidance gets.

With the denoiser's predictions for no text e_u and for the prompt e_c, guidance makes
e_u + g (e_c - e_u). Defences that act on predictions (safe latent guidance, SAFREE, TraSCE) run the
denoiser once more and take a correction gamma from it: e_u + g (e_c - e_u - gamma). Here the
pipeline gets e_c - gamma in place of e_c, so that its own guidance gives the formula, whatever the
pipeline.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from diffusae.backbone.adapters import Adapter
from diffusae.backbone.branches import rows_of
from diffusae.backbone.calls import Call
from diffusae.backbone.families.table import adapter_of
from diffusae.backbone.passes import mixed_by
from diffusae.capture.clock import Clock, running_clock
from diffusae.errors import UserError


@dataclass(frozen=True, eq=False)
class PromptPass:
    """The running pass for the prompts, and how to run the denoiser again on the same latents.

    Attributes:
        call: the pipeline call.
        inputs: the denoiser's arguments by name, those along the batch with the prompts' rows.
        rows: the prompts' rows in the running batch.
        index, count: the step, from 0, and how many steps there are.
        now: the scheduler's timestep.
    """

    adapter: Adapter
    call: Call | None
    inputs: Mapping[str, Any]
    rows: slice
    index: int
    count: int
    now: float

    @property
    def latents(self) -> Tensor:
        """The denoiser's input, `[pictures, ...]`."""
        return self.inputs[self.adapter.varying[0]]

    def run(self, conditions: Mapping[str, Any], latents: Tensor | None = None) -> Tensor:
        """The prediction under other conditions, float32; `forward` runs no hook of the denoiser.

        Args:
            conditions: arguments besides latents and time; values of one row serve every picture.
        """
        latents = self.latents if latents is None else latents
        given = _for_pictures(conditions, len(latents))
        name, time = self.adapter.varying
        varying = {name: latents, time: self.inputs[time]}
        output = self.adapter.denoiser.forward(**given | varying | {"return_dict": False})[0]
        return self.adapter.sign * output.float()

    @property
    def conditions(self) -> dict[str, Any]:
        """The prompts' own arguments besides latents and time."""
        varying = self.adapter.varying
        return {name: value for name, value in self.inputs.items() if name not in varying}


class Rule(ABC):
    """What a third pass is for. A rule serves one context; `begin` starts every pipeline call."""

    needs = "the defence"
    """Who needs guidance, for messages."""

    def installed(self, pipe: Any) -> AbstractContextManager[None]:
        """Further hooks that the rule needs while it acts."""
        return nullcontext()

    @abstractmethod
    def begin(self) -> None:
        """Forget the pipeline call before."""

    @abstractmethod
    def third(self, prompts: PromptPass) -> Tensor | None:
        """The third prediction of this step; None: the step stays as it is."""

    @abstractmethod
    def gamma(
        self, prompts: PromptPass, uncond: Tensor, cond: Tensor, third: Tensor
    ) -> Tensor | None:
        """The correction of this step, from e_u, e_c and the third prediction; None: no
        correction.
        """


@contextmanager
def third_pass(pipe: Any, rule: Rule) -> Iterator[None]:
    """Every pipeline call made inside follows the rule; afterwards all is as before.

    Do not combine it with edits of updates, which would act in the third pass too. Some pipelines
    (FLUX) run guidance in two passes, first `cond`, then `uncond`: e_c is gone when e_u comes.
    There, e_u becomes e_u + g gamma / (g - 1), with the scale g of the guidance, which gives the
    same guided prediction. Qwen-Image and Lumina 2 then give it the length of e_c.

    Raises:
        UserError: the call runs without guidance, or its rows are not known.
    """
    adapter = adapter_of(pipe)
    adapter.require_rows_first(rule.needs)
    with running_clock(pipe) as clock, rule.installed(pipe):
        hook = _Corrected(adapter, clock, rule)
        handle = adapter.denoiser.register_forward_hook(hook, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()


class _Corrected:
    """A hook on the denoiser that changes its output."""

    def __init__(self, adapter: Adapter, clock: Clock, rule: Rule) -> None:
        self._adapter, self._clock, self._rule = adapter, clock, rule
        self._call: Call | None = None
        self._first: tuple[PromptPass, Tensor, Tensor] | None = None
        """The pass for the prompts, e_c and the third prediction, of the first of two passes."""

    def __call__(
        self, denoiser: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> Any:
        layout = self._clock.branches
        branches = layout()
        if "uncond" not in layout.all:
            raise UserError(
                f"{self._rule.needs} needs classifier-free guidance, in one batch [uncond, cond] or"
                " in two passes; leave it out for this model, or raise model.guidance (FLUX.1 and"
                " Qwen-Image: model.true_guidance) above 1"
            )
        if layout.call is not self._call:
            self._call = layout.call
            self._rule.begin()
        sample, sign = output[0], self._adapter.sign
        part = {
            name: sign * sample[rows_of(name, len(sample), branches)].float() for name in branches
        }
        if "cond" in part:
            rows = rows_of("cond", len(sample), branches)
            prompts = self._prompts(self._adapter.given(args, kwargs), rows, len(sample))
            third = self._rule.third(prompts)
            self._first = None if third is None else (prompts, part["cond"], third)
        if "uncond" not in part or self._first is None:
            return None
        prompts, cond, third = self._first
        gamma = self._rule.gamma(prompts, part["uncond"], cond, third)
        if gamma is None:
            return None
        if "cond" in part:
            changed, where = part["cond"] - gamma, rows_of("cond", len(sample), branches)
        else:
            assert layout.call is not None  # only a pipeline's own call is known to have two passes
            scale = layout.call.arguments[mixed_by(self._adapter.layout)]
            changed, where = part["uncond"] + scale / (scale - 1) * gamma, slice(None)
        guided = sample.clone()
        guided[where] = sign * changed.to(sample.dtype)
        return (guided, *output[1:]) if isinstance(output, tuple) else type(output)(sample=guided)

    def _prompts(self, given: Mapping[str, Any], rows: slice, batch: int) -> PromptPass:
        clock = self._clock
        assert clock.now is not None
        index, count = clock.schedule.index(clock.now)
        inputs = self._adapter.taken(given, rows, batch)
        return PromptPass(self._adapter, clock.branches.call, inputs, rows, index, count, clock.now)


def _for_pictures(conditions: Mapping[str, Any], count: int) -> dict[str, Any]:
    """The arguments of one prompt, repeated for `count` pictures; those of more stay."""

    def repeated(value: Any) -> Any:
        if isinstance(value, Tensor) and value.ndim and len(value) == 1:
            return value.expand(count, *value.shape[1:])
        if isinstance(value, dict):
            return {name: repeated(part) for name, part in value.items()}
        return value

    return {name: repeated(value) for name, value in conditions.items()}
