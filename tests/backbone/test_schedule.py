from types import SimpleNamespace

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from diffusers.schedulers.scheduling_pndm import PNDMScheduler
from hypothesis import given
from hypothesis import strategies as st

from diffusae.backbone.schedule import RunningSchedule, step_index, t_of, timestep_at
from diffusae.errors import UserError


@pytest.mark.parametrize(
    ("t", "steps", "index"),
    [
        (1.0, 50, 0),
        (0.0, 50, 49),
        (0.5, 50, 25),  # 24.5: the tie goes to the later step
        (0.5, 51, 25),
        (0.9, 6, 1),  # 0.5 in decimals, 0.4999... in floating point
        (0.3, 11, 7),
        (0.26, 5, 3),  # 2.96
        (0.7, 1, 0),
    ],
)
def test_step_index_is_the_nearest_step_and_ties_go_to_the_later(
    t: float, steps: int, index: int
) -> None:
    assert step_index(t, steps) == index


@given(
    st.integers(1, 1000).flatmap(lambda steps: st.tuples(st.integers(0, steps - 1), st.just(steps)))
)
def test_t_of_a_step_leads_back_to_that_step(step: tuple[int, int]) -> None:
    index, steps = step
    assert step_index(t_of(index, steps), steps) == index


@given(st.floats(0, 1), st.integers(1, 200))
def test_no_step_is_nearer_than_the_one_chosen(t: float, steps: int) -> None:
    distance = abs(t_of(step_index(t, steps), steps) - t)
    assert distance <= min(abs(t_of(i, steps) - t) for i in range(steps)) + 1e-8


def test_t_of_gives_the_ends_and_the_middle() -> None:
    assert [t_of(i, 5) for i in range(5)] == [1.0, 0.75, 0.5, 0.25, 0.0]


@pytest.mark.parametrize("t", [-0.01, 1.01, float("nan")])
def test_a_time_outside_the_unit_interval_is_refused(t: float) -> None:
    with pytest.raises(UserError, match="outside"):
        step_index(t, 50)


@pytest.mark.parametrize("index", [-1, 50])
def test_a_step_outside_the_run_is_refused(index: int) -> None:
    with pytest.raises(UserError, match="outside"):
        t_of(index, 50)


def test_zero_steps_are_refused() -> None:
    with pytest.raises(UserError, match="steps=0"):
        step_index(0.5, 0)


def test_timestep_at_gives_the_schedulers_own_values() -> None:
    scheduler = DDIMScheduler(steps_offset=1)
    # "leading" spacing of 1000 training steps: 981, 961, ..., 1.
    assert [timestep_at(scheduler, 50, t) for t in (1.0, 0.5, 0.0)] == [981, 481, 1]
    trailing = DDIMScheduler(timestep_spacing="trailing")
    assert [timestep_at(trailing, 4, t) for t in (1.0, 0.6, 0.0)] == [999, 749, 249]


def test_timestep_at_leaves_the_scheduler_as_it_is() -> None:
    scheduler = DDIMScheduler()
    scheduler.set_timesteps(7)
    before = scheduler.timesteps.clone()
    timestep_at(scheduler, 50, 0.5)
    assert scheduler.timesteps.equal(before)
    assert scheduler.num_inference_steps == 7


def test_timestep_at_knows_fractional_timesteps() -> None:
    scheduler = EulerDiscreteScheduler(timestep_spacing="linspace")
    scheduler.set_timesteps(7)
    assert timestep_at(scheduler, 7, 0.5) == scheduler.timesteps[3].item() == 499.5


def test_a_scheduler_that_visits_a_timestep_twice_is_refused() -> None:
    with pytest.raises(UserError, match="DDIM"):
        timestep_at(PNDMScheduler(skip_prk_steps=True), 50, 0.5)


def test_more_steps_than_the_scheduler_has_are_refused() -> None:
    with pytest.raises(UserError, match="2000 steps"):
        timestep_at(DDIMScheduler(), 2000, 0.5)


def test_a_time_that_was_rounded_is_the_schedulers_nearest_and_an_ambiguous_one_is_refused() -> (
    None
):
    schedule = RunningSchedule(
        SimpleNamespace(
            scheduler=SimpleNamespace(timesteps=torch.tensor([1000.0, 500.0, 499.0, 499.0]))
        )
    )
    assert schedule.own(500, 0.0) == 500
    assert schedule.own(500.2, 0.5) == 500  # 499 is 1.2 away, and 0.5 is allowed
    # A thousandth of it, or a sigma, is another scale
    assert schedule.own(0.5, 0.0005) is None
    assert [schedule.t(timestep) for timestep in (1000, 500, 499)] == [1.0, 0.5, 0.0]
    assert schedule.index(499) == (2, 3)
    with pytest.raises(UserError, match=r"500, 499, which round to it"):
        schedule.own(499.5, 5.0)
    with pytest.raises(
        UserError,
        match=r"SimpleNamespace is given the time 0.5, which is none .* \(3 from 1000 to 499\)",
    ):
        schedule.t(0.5)
