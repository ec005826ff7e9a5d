"""Defences by a third pass where guidance runs in two passes, beside diffusers' own combination of
the predictions; and the families whose rows they cannot follow.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import pytest
import torch
from torch import Tensor

from diffusae.backbone.branches import replace_method
from diffusae.backbone.passes import mixed_by
from diffusae.errors import UserError
from diffusae.interventions.exchange import Exchange, exchanged_conditions
from diffusae.interventions.safe_guidance import SafeGuidance, safe_guidance, safety_term
from diffusae.interventions.trasce import TrajectorySteering, trajectory_steering
from families.running import SIZE, Case
from tiny_families import FAMILIES

TWO_PASSES = [
    pytest.param(name, marks=pytest.mark.slow if name == "flux_kontext" else ())
    for name, family in FAMILIES.items()
    if family.passes == (("cond",), ("uncond",))
]
SAFE = SafeGuidance(scale=20.0, threshold=0.0, warmup=0.0, momentum=0.0, beta=0.0)
"""Whether a difference counts depends on its sign."""
NEGATED = ("lumina2",)
"""Their pipelines negate the mixed prediction."""
LENGTHENED = ("lumina2", "qwen_image")
"""Their pipelines give it the length of e_c, along the last side."""

Gamma = Callable[[Tensor, Tensor, Tensor], Tensor]
Around = Callable[[Case], AbstractContextManager[None]]


def asked(case: Case) -> dict[str, Any]:
    return {**case.family.asked, **SIZE, "given": case.family.needs}


def by_safe_guidance(uncond: Tensor, cond: Tensor, concept: Tensor) -> Tensor:
    return safety_term(uncond, cond, concept, torch.zeros_like(cond), SAFE)[0]


DEFENCES: dict[str, tuple[Around, Gamma]] = {
    "safe_guidance": (
        lambda case: safe_guidance(case.pipe, "fish", SAFE, **asked(case)),
        by_safe_guidance,
    ),
    "trasce": (
        lambda case: trajectory_steering(
            case.pipe, "fish", TrajectorySteering(0.0, 1.0), **asked(case)
        ),
        lambda uncond, _cond, concept: concept - uncond,
    ),
}


def run(case: Case, first: Tensor | None = None) -> tuple[list[Tensor], Tensor]:
    """The denoiser's outputs, and the scheduler's first input; `first` replaces the first
    output."""
    outputs: list[Tensor] = []
    mixed: list[Tensor] = []

    def forward(own: Any) -> Any:
        def spy(*args: Any, **kwargs: Any) -> Any:
            output = own(*args, **kwargs)
            outputs.append(output[0])
            return (first,) if first is not None and len(outputs) == 1 else output

        return spy

    def step(own: Any) -> Any:
        def spy(output: Tensor, *args: Any, **kwargs: Any) -> Any:
            mixed.append(output)
            return own(output, *args, **kwargs)

        return spy

    with ExitStack() as stack:
        replace_method(stack, case.denoiser, "forward", forward)
        replace_method(stack, case.pipe.scheduler, "step", step)
        case.make(steps=2)
    return outputs, mixed[0]


@pytest.fixture(scope="module", params=TWO_PASSES)
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


@pytest.mark.parametrize("defence", DEFENCES)
def test_the_pipeline_mixes_as_if_its_prediction_for_the_prompt_were_corrected(
    case: Case, defence: str
) -> None:
    around, gamma_of = DEFENCES[defence]
    with around(case):
        (cond, concept, uncond, *_), mixed = run(case)
    sign = -1 if case.name in NEGATED else 1
    gamma = sign * gamma_of(sign * uncond, sign * cond, sign * concept)
    assert gamma.abs().max() > 1e-3
    _, own = run(case, first=cond - gamma)
    if case.name in LENGTHENED:
        own = own * (cond.norm(dim=-1, keepdim=True) / own.norm(dim=-1, keepdim=True))
    torch.testing.assert_close(mixed, own, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(run(case)[1], own, rtol=1e-2, atol=1e-3)


def test_the_mixing_scale_is_the_argument_that_the_pipelines_call_takes(case: Case) -> None:
    true = "true_guidance" in case.family.asked
    assert mixed_by(case.adapter.layout) == ("true_cfg_scale" if true else "guidance_scale")


@pytest.mark.parametrize(("name", "family"), [("z_image", "Z-Image"), ("hidream", "HiDream")])
def test_families_with_rows_in_lists_are_refused_by_name(name: str, family: str) -> None:
    case = Case(name)
    conditions: Any = {}
    exchange = [Exchange("dogs", (1.0, 0.5))] * 2
    for around in (
        *(made(case) for made, _ in DEFENCES.values()),
        exchanged_conditions(case.pipe, exchange, conditions),
    ):
        with pytest.raises(UserError, match=rf"those of {family} are lists"), around:
            pass
