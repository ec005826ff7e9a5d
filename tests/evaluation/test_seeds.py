"""Two levels of resampling, seeds and pictures, against hand-worked figures."""

import math

import numpy as np
import pytest

from diffusae.errors import UserError
from diffusae.evaluation.result import NO_DATA, Estimate, Result, bootstrap_mean
from diffusae.evaluation.seeds import over_seeds, results_over_seeds


def test_two_seeds_without_any_spread_over_pictures_are_worked_by_hand():
    # A quarter of the draws are twice the first, half one of each, a quarter twice the second:
    # .2, .3, .4, and the deviations from .3 grow by sqrt(2 / 1).
    of_seeds = [Estimate(v, (v, v), 40, 10).drawn(np.full(4000, v)) for v in (0.2, 0.4)]
    joined = over_seeds(of_seeds, seed=0)
    assert joined.value == pytest.approx(0.3)
    assert joined.ci95 == pytest.approx((0.3 - 0.1 * math.sqrt(2), 0.3 + 0.1 * math.sqrt(2)))
    assert joined.counted == "40 of 10 pictures"


def test_seeds_that_agree_on_every_draw_of_pictures_have_the_interval_of_one():
    values = np.random.default_rng(0).normal(size=60)
    own, other = bootstrap_mean(values, seed=3), bootstrap_mean(values + 1e-12, seed=3)
    joined = over_seeds([own, other, other], seed=0)
    assert joined.ci95 == pytest.approx(own.ci95, abs=1e-9)


def test_the_variances_of_seeds_and_of_pictures_add_up():
    generator = np.random.default_rng(1)
    pictures = generator.normal(0, 0.03, size=50_000)  # the same draw of pictures for every seed
    values = [0.2, 0.3, 0.7]
    of_seeds = [Estimate(v, (v, v), 9).drawn(v + pictures) for v in values]
    low, high = over_seeds(of_seeds, seed=0).ci95 or (0, 0)
    # Drawing three of three has the variance sum (v - .4)^2 / 3^2, times 3 / 2, beside .03^2.
    expected = math.sqrt((0.04 + 0.01 + 0.09) / 9 * 3 / 2 + 0.03**2)
    drawn = generator.choice(values, size=(50_000, 3)).mean(axis=1) - 0.4
    known = 0.4 + math.sqrt(1.5) * drawn + pictures
    assert (low, high) == pytest.approx(tuple(np.quantile(known, (0.025, 0.975))), abs=0.02)
    assert (high - low) / 2 / 1.96 == pytest.approx(expected, rel=0.15)


def test_a_share_has_all_that_the_intervals_of_the_seeds_hold():
    joined = over_seeds([Estimate(0.1, (0.05, 0.2), 64), Estimate(0.3, (0.2, 0.4), 64)], seed=0)
    assert (joined.value, joined.ci95) == (0.2, (0.05, 0.4))


def test_seeds_without_data_are_left_out():
    own = Estimate(0.1, (0.05, 0.2), 64)
    assert over_seeds([NO_DATA, own], seed=0) is own
    assert over_seeds([NO_DATA, NO_DATA], seed=0) == NO_DATA


def row(metric: str, value: float, chance: float) -> Result:
    cell = {"model": "m", "block": "mid", "t": 0.5, "conditioning": "cond"}
    known = {"chance": Estimate(chance, (0.0, 0.5), 8), "own alone": Estimate(0.0, None, 1)}
    baselines = known if value == 0.25 else {"chance": known["chance"]}
    return Result(metric, Estimate(value, (0, 1), 8), True, "IoU", cell, baselines, {"top_n": 3})


def test_rows_are_joined_by_name_and_tell_the_value_of_every_seed():
    (joined,) = results_over_seeds([[row("a", 0.25, 0.2)], [row("a", 0.75, 0.2)]], seed=0)
    assert joined.value == 0.5
    assert joined.baselines == {"chance": Estimate(0.2, (0.0, 0.5), 8)}
    assert joined.details == {"top_n": 3, "sae_seeds": 2, "values_by_seed": [0.25, 0.75]}
    with pytest.raises(UserError, match="evaluate it again"):
        results_over_seeds([[row("a", 0.25, 0.2)], [row("b", 0.75, 0.2)]], seed=0)
