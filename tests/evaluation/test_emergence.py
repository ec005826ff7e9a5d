from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusae.errors import UserError
from diffusae.evaluation.emergence import emergence, emergence_result, paired, settled
from diffusae.evaluation.result import NO_DATA, Estimate, Result, bootstrap_weights

TIMES = (1.0, 0.5, 0.0)


def tables(curves, times: Any = TIMES, noun="cat") -> dict[float, dict[tuple[str, str], Any]]:
    """One object a picture, each with its own curve; None is no data."""
    return {
        t: {(str(n), noun): curve[i] for n, curve in enumerate(curves) if curve[i] is not None}
        for i, t in enumerate(times)
    }


def reached(*curve, share=0.9, times=None):
    times = np.linspace(1, 0, len(curve)) if times is None else times
    return emergence(paired(tables([curve], times)), share=share)


def test_the_target_is_met_between_two_moments_by_a_straight_line():
    # Target .9 * .4 = .36, which lies .26 of .3 on the way from .1 at t = .5 to .4 at t = 0.
    emerged = reached(0.0, 0.1, 0.4)
    assert emerged.reached.value == pytest.approx(0.5 - 0.5 * 0.26 / 0.3)
    assert emerged.between == (0.5, 0.0)


def test_a_moment_at_its_target_exactly_has_reached_it():
    assert reached(0.0, 0.5, 1.0, share=0.5).reached.value == 0.5


def test_unequal_steps_of_t_are_interpolated_in_t():
    # Target .5, half-way from 0 at t = .8 to 1 at t = .2.
    assert reached(0, 0, 1, share=0.5, times=(1.0, 0.8, 0.2)).reached.value == pytest.approx(0.5)


def test_an_early_value_that_is_lost_again_is_no_emergence():
    # .9 at t = .75 is a blip: afterwards the curve is below .9 until half-way between .25 and 0.
    emerged = reached(0.0, 0.9, 0.2, 0.8, 1.0)
    assert emerged.reached.value == pytest.approx(0.125)
    assert emerged.first_reached == pytest.approx(0.75)


def test_a_curve_above_its_final_value_on_the_way_has_emerged_where_it_rose():
    # The miniature's middle block: .12, .30, .27. Target .243.
    emerged = reached(0.12, 0.30, 0.27)
    assert emerged.reached.value == pytest.approx(1 - 0.5 * (0.243 - 0.12) / 0.18)
    assert emerged.first_reached == emerged.reached.value


@pytest.mark.parametrize("curve", [(0.5, 0.5, 0.5), (0.9, 0.7, 0.5), (0.95, 1.0, 1.0)])
def test_a_curve_that_is_never_below_its_target_has_emerged_at_the_first_moment(curve):
    emerged = reached(*curve)
    assert (emerged.reached.value, emerged.between, emerged.first_reached) == (1.0, None, 1.0)


def test_a_curve_that_ends_at_0_has_not_emerged():
    emerged = reached(0.5, 0.2, 0.0)
    assert (emerged.reached, emerged.between, emerged.first_reached) == (NO_DATA, None, None)
    assert [estimate.value for _, estimate in emerged.curve] == [0.5, 0.2, 0.0]


def test_one_moment_is_no_curve_and_no_objects_are_no_data():
    assert reached(0.5).reached == NO_DATA
    for empty in ({}, {1.0: {}, 0.0: {}}):
        emerged = emergence(paired(empty), share=0.9)
        assert (emerged.curve, emerged.reached, emerged.rise) == ([], NO_DATA, NO_DATA)


def test_objects_without_data_at_a_moment_are_left_out_at_all_and_counted():
    pairs = paired(tables([(0.1, 0.2, 0.3), (0.9, None, 0.9), (0.8, float("nan"), 0.8)]))
    assert (pairs.items, pairs.n_incomplete) == ((("0", "cat"),), 2)
    assert pairs.scores.tolist() == [[0.1, 0.2, 0.3]]
    assert emergence(pairs, share=0.9).reached.n == 1


def test_a_moment_without_any_object_is_left_out():
    pairs = paired(tables([(0.1, None, 0.3), (0.2, None, 0.4)]))
    assert (pairs.times, len(pairs.items), pairs.n_incomplete) == ((1.0, 0.0), 2, 0)


def test_moments_are_ordered_from_the_first_step_to_the_last():
    assert paired(tables([(0.3, 0.2, 0.1)], times=(0.0, 0.5, 1.0))).times == TIMES


def curves_of(n, seed=0, noise=0.1):
    generator = np.random.default_rng(seed)
    return (np.array([0.1, 0.3, 0.5]) + noise * generator.normal(size=(n, 3))).tolist()


def test_the_interval_draws_whole_pictures_alike_for_all_moments():
    # Two objects in the first five pictures, one in the others; the reference is plain Python.
    first, second = tables(curves_of(9)), tables(curves_of(5, seed=1), noun="dog")
    both = {t: {**first[t], **second[t]} for t in TIMES}
    emerged = emergence(paired(both), share=0.9, n_resamples=300, seed=7)
    expected, rises = [], []
    for weights in bootstrap_weights(9, n_resamples=300, seed=7):
        curve = []
        for t in TIMES:
            drawn = [
                score
                for (picture, _), score in both[t].items()
                for _ in range(int(weights[int(picture)]))
            ]
            curve.append(sum(drawn) / len(drawn))
        target = 0.9 * curve[-1]
        last = max(i for i in range(3) if curve[i] < target)
        share = (target - curve[last]) / (curve[last + 1] - curve[last])
        expected.append(TIMES[last] + share * (TIMES[last + 1] - TIMES[last]))
        rises.append(curve[-1] - curve[0])
    assert emerged.reached.ci95 == pytest.approx(np.quantile(expected, (0.025, 0.975)))
    assert emerged.rise.ci95 == pytest.approx(np.quantile(rises, (0.025, 0.975)))
    assert emerged.reached.n == 14


def test_pairing_keeps_differences_between_pictures_out_of_the_interval():
    # Pictures differ by a factor, which moves the whole curve and not the moment of emergence.
    factors = np.random.default_rng(0).uniform(0.1, 1, size=30)
    emerged = emergence(paired(tables(factors[:, None] * np.array([0.1, 0.2, 0.9]))), share=0.9)
    assert emerged.reached.ci95 is not None
    low, high = emerged.reached.ci95
    assert high - low < 1e-9
    _, final = emerged.curve[-1]
    assert final.ci95 is not None
    assert final.ci95[1] - final.ci95[0] > 0.1


def test_the_interval_holds_the_truth_in_about_19_of_20_cases():
    true = np.array([0.11, 0.14, 0.19, 0.25, 0.28, 0.29, 0.295, 0.298, 0.299, 0.3, 0.3])
    times, held = np.linspace(1, 0, 11), 0
    (t,) = settled(times, true[None], share=0.9)
    for seed in range(80):
        generator = np.random.default_rng(seed)
        factors = generator.uniform(0.4, 1.6, size=(120, 1))
        curves = factors * true + 0.08 * generator.normal(size=(120, 11))
        estimate = emergence(paired(tables(curves, times)), share=0.9, n_resamples=300).reached
        assert estimate.ci95 is not None
        held += estimate.ci95[0] <= t <= estimate.ci95[1]
    assert 70 <= held <= 80


def test_one_picture_has_no_interval():
    emerged = reached(0.1, 0.2, 0.4)
    assert emerged.reached.ci95 is None
    assert all(estimate.ci95 is None for _, estimate in emerged.curve)


@pytest.mark.parametrize("share", [0, -0.1, 1.01, float("nan")])
def test_an_impossible_share_is_refused(share):
    with pytest.raises(UserError, match="above 0 and at most 1"):
        reached(0.1, 0.2, share=share)


def test_an_impossible_time_is_refused():
    with pytest.raises(UserError, match=r"t=50 lies outside \[0, 1\]"):
        paired({50: {}})


values = st.lists(st.floats(0.0078125, 1), min_size=2, max_size=12)
shares = st.floats(0.05, 1)


def at(curve, share):
    times = np.linspace(1, 0, len(curve))
    return float(settled(times, np.array([curve]), share=share)[0])


@given(values, shares)
def test_the_figure_is_a_t_of_the_range(curve, share):
    assert 0 <= at(curve, share) <= 1


@given(values, shares, st.integers(-8, 8))
def test_the_scale_of_the_scores_does_not_matter(curve, share, exponent):
    # Powers of two scale without rounding.
    assert at([value * 2.0**exponent for value in curve], share) == at(curve, share)


@given(values, shares)
def test_a_curve_that_never_falls_has_emerged_where_it_first_crosses(curve, share):
    emerged = reached(*sorted(curve), share=share)
    assert emerged.first_reached == emerged.reached.value


@given(values, shares)
def test_emergence_is_never_earlier_than_the_first_crossing(curve, share):
    emerged = reached(*curve, share=share)
    assert emerged.reached.value is not None
    assert emerged.first_reached is not None
    assert emerged.reached.value <= emerged.first_reached


@given(values, shares, shares)
def test_a_larger_share_is_reached_no_earlier(curve, one, other):
    assert at(curve, max(one, other)) <= at(curve, min(one, other)) + 1e-12


@given(values, shares)
def test_from_the_figure_on_the_curve_is_at_its_target(curve, share):
    t, times = at(curve, share), np.linspace(1, 0, len(curve))
    later = np.array(curve)[times < t - 1e-12]
    assert (later >= share * curve[-1]).all()
    # At the figure the curve is exactly at its target, unless it began above.
    if t < 1:
        assert np.interp(1 - t, 1 - times, curve) == pytest.approx(share * curve[-1])


@given(values, shares, st.floats(0.1, 0.9))
def test_a_moment_more_on_the_straight_line_changes_nothing(curve, share, where):
    times = np.linspace(1, 0, len(curve))
    between = times[0] + where * (times[1] - times[0])
    value = curve[0] + where * (curve[1] - curve[0])
    finer_times, finer = np.insert(times, 1, between), np.array([np.insert(curve, 1, value)])
    finer = settled(finer_times, finer, share=share)[0]
    coarse = at(curve, share)
    # Rounding of the added value may put it on the other side of a target that it just touches.
    touches = abs(value - share * curve[-1]) < 1e-12 or abs(curve[0] - share * curve[-1]) < 1e-12
    assert touches or finer == pytest.approx(coarse, abs=1e-9)


def test_the_row_has_the_curve_its_baselines_and_what_a_flat_curve_has():
    own = emergence(paired(tables(curves_of(9))), share=0.9)
    probe = emergence(paired(tables(curves_of(9, seed=3))), share=0.9)
    chance = Estimate(0.1, (0.05, 0.15), 9)
    about = {"share": 0.9, "cell": {"block": "mid"}, "details": {"tag": "k10"}}
    row = emergence_result(own, baselines={"noun_probe": probe}, chance=chance, **about)
    assert (row.metric, row.unit, row.estimate) == ("emergence", "t", own.reached)
    assert row.baselines == {"noun_probe": probe.reached, "flat_curve": Estimate(1.0, None, 9)}
    assert [point["t"] for point in row.details["curve"]] == [1.0, 0.5, 0.0]
    assert row.details["baseline_curves"]["noun_probe"][2]["value"] == probe.curve[2][1].value
    assert row.details["between"] == [0.5, 0.0]
    assert (row.details["tag"], row.details["chance"]["value"]) == ("k10", 0.1)
    assert Result.from_json(row.to_json()) == row


def test_a_row_without_data_has_baselines_without_data():
    nothing = emergence(paired({}), share=0.9)
    beside = {"noun_probe": nothing}
    row = emergence_result(nothing, share=0.9, cell={}, baselines=beside, chance=NO_DATA)
    assert (row.value, row.baselines) == (None, {"noun_probe": NO_DATA, "flat_curve": NO_DATA})
