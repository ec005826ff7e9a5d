"""Branches of guidance: which rows are cond and which are uncond."""

import pytest
import torch

from diffusae.backbone.branches import counted_branches, planned_branches
from diffusae.backbone.passes import CONDITIONINGS
from diffusae.capture.hooks import capture_updates
from diffusae.errors import UserError
from families.running import PROMPTS, STEPS, Case


def test_cond_and_uncond_are_those_of_separate_runs(case: Case) -> None:
    """At the first step, a guided run's branches equal unguided runs of its prompts and of empty
    ones."""
    case.require("uncond")
    first, guided = case.timesteps()[:1], case.plain.updates
    options = {"timesteps": first, "conditionings": ["cond"], **case.family.unguided}
    alone = {
        branch: case.record(prompts=prompts, **options).updates
        for branch, prompts in (("cond", PROMPTS), ("uncond", ("", "")))
    }
    for block in case.family.blocks:
        for branch, other in (("cond", "uncond"), ("uncond", "cond")):
            update, same = (guided[block, first[0], branch], alone[branch][block, first[0], "cond"])
            if case.family.empty_prompt_is_encoded or branch == "cond":
                torch.testing.assert_close(update, same, rtol=1e-4, atol=1e-5)
            assert (update - alone[other][block, first[0], "cond"]).abs().max() > 1e-4


def test_the_plan_and_the_pipeline_agree_on_the_branches(case: Case) -> None:
    for options in (case.family.asked, case.family.asked | case.family.unguided):
        came: list[tuple[str, ...]] = []
        with counted_branches(case.pipe) as branches:
            handle = case.denoiser.register_forward_pre_hook(
                lambda *_, branches=branches, came=came: came.append(branches())
            )
            case.make(**options)
            handle.remove()
        planned = planned_branches(
            case.denoiser,
            options["guidance"],
            layout=case.adapter.layout,
            true_guidance=options.get("true_guidance"),
        )
        guided = options is case.family.asked
        passes = case.family.passes if guided else (("cond",),)
        assert came == list(passes) * STEPS
        assert set(planned) == {branch for branches in passes for branch in branches}


def test_uncond_of_an_unguided_call_is_refused_before_anything_runs(case: Case) -> None:
    steps: list[int] = []
    with pytest.raises(UserError, match="no uncond branch"):
        case.record(progress=steps.append, conditionings=CONDITIONINGS, **case.family.unguided)
    assert steps == []
    with (
        pytest.raises(UserError, match="no uncond branch"),
        capture_updates(case.pipe, case.family.hookpoints, case.timesteps()),
    ):
        case.make(**case.family.unguided)
