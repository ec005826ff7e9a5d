from __future__ import annotations

import numpy as np
import pytest

from diffusae.errors import UserError
from diffusae.evaluation.decisions import decision_time
from diffusae.evaluation.result import Estimate

TIMES = (1.0, 0.6, 0.2, 0.0)


def time_of(*captions: str, times: tuple[float, ...] = TIMES) -> Estimate:
    """Of captions as rows of "x" (shows the new value) and "."."""
    shown = np.array([[letter == "x" for letter in row] for row in captions])
    return decision_time(times, shown.reshape(len(captions), -1), n_resamples=500, seed=0)


def test_the_time_lies_where_the_share_falls_below_one_half() -> None:
    # Shares 1, .75, .25, 0: half-way between t = .6 and .2.
    time = time_of("xx..", "xx..", "xxx.", "x...")
    assert time.value == pytest.approx(0.4)
    assert time.n == 4
    assert time.ci95 is not None
    assert time.ci95[0] <= 0.2 and time.ci95[1] >= 0.6


def test_a_share_that_rises_again_above_one_half_is_not_too_late() -> None:
    # Shares 1, 0, 1, 0: the exchange is in time down to t = .2.
    assert time_of("x.x.", "x.x.").value == pytest.approx(0.1)


def test_captions_that_agree_leave_the_interval_between_two_moments() -> None:
    time = time_of(*["xx.."] * 20)
    assert (time.value, time.ci95, time.n) == (pytest.approx(0.4), (0.2, 0.6), 20)


def test_resampled_captions_widen_the_interval() -> None:
    early, late = "x...", "xxx."
    time = time_of(*[early] * 5, *[late] * 6)
    assert time.ci95 is not None
    assert time.ci95[0] < 0.15 and time.ci95[1] > 0.65


@pytest.mark.parametrize("rows", [("....", "....", "xx.."), ("xxxx", "xxx."), ()])
def test_what_the_model_does_not_show_or_shows_by_chance_has_no_time(rows) -> None:
    shown = np.array([[letter == "x" for letter in row] for row in rows]).reshape(len(rows), 4)
    assert decision_time(TIMES, shown, n_resamples=10, seed=0) == Estimate(None)


def test_a_single_caption_has_no_interval() -> None:
    time = time_of("xx..")
    assert (time.value, time.ci95, time.n) == (pytest.approx(0.4), None, 1)


def test_times_without_a_column_are_refused() -> None:
    with pytest.raises(UserError, match="4 times need a column each"):
        decision_time(TIMES, np.zeros((2, 3), bool), n_resamples=10, seed=0)
