"""TraSCE: the formulas by hand and by finite differences, and whole calls."""

from typing import Any

import pytest
import torch

from diffusae.backbone.families.table import adapter_of
from diffusae.capture.conditions import conditions
from diffusae.errors import UserError
from diffusae.interventions.trasce import TrajectorySteering, pull, trajectory_steering
from tiny_pipeline import tiny_pipeline

CALL: dict[str, Any] = {"guidance": 5.0, "height": 16, "width": 16}


def latents(count: int = 2) -> torch.Tensor:
    return torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(1))


def drawn(pipe: Any, steps: int = 3, **options: Any) -> torch.Tensor:
    return pipe(
        ["a cat", "dogs"],
        num_inference_steps=steps,
        guidance_scale=5.0,
        latents=latents(),
        output_type="latent",
        **options,
    ).images


def predicted(pipe: Any, x: torch.Tensor, prompts: list[str], branch: str) -> torch.Tensor:
    """The denoiser's prediction at the first step of three, by a plain call."""
    given = conditions(pipe, prompts, branch, **CALL)
    pipe.scheduler.set_timesteps(3)
    with torch.no_grad():
        return adapter_of(pipe).predict(given, x, float(pipe.scheduler.timesteps[0]))


def test_the_pull_by_hand():
    # Two pictures: distances 5 and 0 of whole pictures.
    cond = torch.tensor([[[3.0, 4.0]], [[1.0, 1.0]]])
    concept = torch.tensor([[[0.0, 0.0]], [[1.0, 1.0]]])
    expected = torch.tensor([-0.0820850, -1.0])  # -exp(-5 / 2), -exp(0)
    torch.testing.assert_close(pull(cond, concept, 2.0), expected)


def test_negative_prompting_leaves_the_unconditional_prediction_where_the_prompt_is_the_concept(
    pipe,
):
    seen = []
    step = pipe.scheduler.step
    pipe.scheduler.step = lambda out, *a, **k: (seen.append(out), step(out, *a, **k))[1]
    with trajectory_steering(pipe, "a cat", TrajectorySteering(0.0, 1.0), **CALL):
        drawn(pipe)
    del pipe.scheduler.step
    uncond, cond, concept = (
        predicted(pipe, latents(), prompts, branch)
        for prompts, branch in (
            (["a cat", "dogs"], "uncond"),
            (["a cat", "dogs"], "cond"),
            (["a cat", "a cat"], "cond"),
        )
    )
    torch.testing.assert_close(seen[0], uncond + 5.0 * (cond - concept), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(seen[0][0], uncond[0], rtol=1e-4, atol=1e-4)
    assert (seen[0][1] - uncond[1]).abs().max() > 1e-2


def test_latents_move_by_the_gradient_of_the_pull(pipe):
    scale, sigma, start = 3.0, 8.0, []
    step = pipe.scheduler.step

    def record(out: Any, t: Any, sample: torch.Tensor, *rest: Any, **given: Any) -> Any:
        start.append(sample)
        return step(out, t, sample, *rest, **given)

    pipe.scheduler.step = record
    with trajectory_steering(pipe, "dogs", TrajectorySteering(scale, sigma), **CALL):
        drawn(pipe)
    del pipe.scheduler.step
    x, towards = latents(), torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(5))

    def at(x: torch.Tensor) -> torch.Tensor:
        cond = predicted(pipe, x, ["a cat", "dogs"], "cond")
        return pull(cond, predicted(pipe, x, ["dogs", "dogs"], "cond"), sigma)

    e = 1e-2
    slope = (at(x + e * towards) - at(x - e * towards)) / (2 * e)  # of every picture
    moved = (start[0] - x).flatten(1)
    expected = -scale * slope
    torch.testing.assert_close((moved * towards.flatten(1)).sum(1), expected, rtol=2e-2, atol=1e-4)
    assert moved[0].abs().max() > 0


def test_a_larger_scale_changes_more_and_the_pipeline_is_as_before_afterwards(pipe):
    plain = drawn(pipe)
    changed = []
    for scale in (0.0, 5.0):
        with trajectory_steering(pipe, "dogs", TrajectorySteering(scale, 8.0), **CALL):
            changed.append(drawn(pipe))
    assert not torch.equal(changed[0], changed[1])
    assert "step" not in vars(pipe.scheduler)
    assert torch.equal(drawn(pipe), plain)


def test_the_gradient_is_by_the_latents_where_a_scheduler_divides_them(monkeypatch):
    from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler

    moves = []
    for scheduler in (None, EulerDiscreteScheduler):
        pipe: Any = tiny_pipeline()
        if scheduler is not None:
            own = scheduler.from_config(pipe.scheduler.config)
            monkeypatch.setattr(pipe, "scheduler", own)
        step = pipe.scheduler.step
        seen: list[torch.Tensor] = []

        def record(out, t, sample, *rest, step=step, seen=seen, **given):
            seen.append(sample)
            return step(out, t, sample, *rest, **given)

        pipe.scheduler.step = record
        with trajectory_steering(pipe, "dogs", TrajectorySteering(3.0, 8.0), **CALL):
            drawn(pipe)
        begin = latents() * pipe.scheduler.init_noise_sigma
        moves.append((seen[0] - begin).norm() / float(pipe.scheduler.init_noise_sigma))
    # Euler's latents are sigma times as large and its input is divided by (sigma^2 + 1)^.5, so the
    # move is smaller by that factor, and would be as large without it.
    assert moves[1] < 0.5 * moves[0]


@pytest.mark.parametrize(("scale", "sigma"), [(-1.0, 1.0), (1.0, 0.0), (float("nan"), 1.0)])
def test_wrong_settings_are_refused(scale, sigma):
    with pytest.raises(UserError, match=r"must be a number (from|above) 0"):
        TrajectorySteering(scale, sigma)
