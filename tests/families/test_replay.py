"""Replay: the steps before an edit are made once."""

import torch
from torch import Tensor

from diffusae.capture.hooks import hook_blocks
from diffusae.capture.replay import recorded_outputs, replayed_outputs
from families.running import STEPS, Case


def test_a_replayed_call_is_the_recorded_one_and_runs_only_the_rest(case: Case) -> None:
    runs: list[int] = []
    with (
        case.replaced("down", lambda number, *_: runs.append(number)),
        recorded_outputs(case.pipe) as outputs,
    ):
        whole = case.make()
    assert list(outputs) == case.timesteps()
    assert len(runs) == STEPS * len(case.family.passes)
    visited: list[float] = []

    def visit(_block: str, moment: object, *_: Tensor) -> None:
        visited.append(moment.timestep)  # type: ignore[attr-defined]

    with (
        replayed_outputs(case.pipe, outputs, list(outputs)[:2]),
        hook_blocks(case.pipe, {"mid": case.paths["mid"]}, visit),
    ):
        assert torch.equal(case.make().latents, whole.latents)
    assert visited == [case.timesteps()[-1]] * len(case.family.passes)
