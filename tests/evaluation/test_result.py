import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusae.errors import UserError
from diffusae.evaluation.result import (
    NO_DATA,
    Estimate,
    Result,
    bootstrap_mean,
    bootstrap_weights,
    load_results,
    save_results,
)

CELL = {"model": "miniature", "block": "mid", "t": 0.5, "conditioning": "cond"}

finite = st.floats(-1e6, 1e6)
intervals = st.one_of(st.none(), st.tuples(finite, finite))
estimates = st.one_of(
    st.just(NO_DATA), st.builds(Estimate, finite, intervals, st.integers(1, 10**6))
)


@given(estimates, st.dictionaries(st.text(), estimates, max_size=3), st.booleans())
def test_a_row_survives_json(estimate, baselines, higher):
    details = {"threshold": 0.5}
    row = Result("composition", estimate, higher, "IoU", CELL, baselines, details, version=3)
    assert Result.from_json(json.loads(json.dumps(row.to_json()))) == row


def test_a_row_has_the_fields_of_the_contract():
    estimate = Estimate(0.3, (0.2, 0.4), 7)
    row = Result("composition", estimate, True, "IoU", CELL, {"chance": NO_DATA})
    assert row.to_json() == {
        "metric": "composition",
        "value": 0.3,
        "ci95": (0.2, 0.4),
        "n": 7,
        "clusters": None,
        "higher_is_better": True,
        "unit": "IoU",
        "cell": CELL,
        "baselines": {"chance": {"value": None, "ci95": None, "n": 0, "clusters": None}},
        "details": {},
        "version": 1,
    }


@pytest.mark.parametrize(
    "fields",
    [
        (float("nan"), None, 3),
        (0.5, (float("-inf"), 1.0), 3),
        (0.5, None, 0),
        (None, None, 4),
        (None, (0.0, 1.0), 0),
        (0.5, None, 3, 4),
        (0.5, None, 3, 0),
    ],
)
def test_figures_that_are_not_finite_or_lack_data_are_refused(fields):
    with pytest.raises(UserError):
        Estimate(*fields)


def test_a_known_figure_has_the_count_of_what_it_is_compared_with_or_no_data():
    assert Estimate.known(0.25, n=3) == Estimate(0.25, None, 3)
    assert Estimate.known(0.25, n=0) == NO_DATA


def test_a_row_of_a_version_that_did_not_count_pictures_is_read():
    row = Result("a", Estimate(0.3, (0.2, 0.4), 8, 2), True, "share", CELL, {"chance": NO_DATA})
    old = row.to_json()
    del old["clusters"], old["baselines"]["chance"]["clusters"]
    known = Result.from_json(old)
    assert (known.estimate, known.baselines) == (Estimate(0.3, (0.2, 0.4), 8), {"chance": NO_DATA})


def test_results_survive_a_file(tmp_path):
    rows = [
        Result("a", NO_DATA, True, "IoU", CELL),
        Result("b", Estimate(1.0, None, 2), False, "share"),
    ]
    save_results(tmp_path / "results.json", rows)
    assert load_results(tmp_path / "results.json") == rows


@pytest.mark.parametrize("text", ["", "{}", "[{}]", "[3]", '[{"metric": "a"}]'])
def test_a_file_without_rows_is_refused(tmp_path, text):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(UserError, match="evaluate this cell again"):
        load_results(tmp_path / "results.json")


def test_without_values_there_are_no_data():
    assert bootstrap_mean([]) == NO_DATA


def test_equal_values_have_an_interval_without_width():
    assert bootstrap_mean([0.25] * 8) == Estimate(0.25, (0.25, 0.25), 8)


def test_one_group_has_no_interval():
    assert bootstrap_mean([1.0, 2.0], groups=["a", "a"]) == Estimate(1.5, None, 2, clusters=1)


def test_the_interval_has_the_width_of_the_normal_approximation():
    values = np.random.default_rng(0).normal(size=400)
    low, high = bootstrap_mean(values).ci95 or (0, 0)
    expected = 2 * 1.96 * values.std() / 400**0.5
    assert high - low == pytest.approx(expected, rel=0.08)
    assert low < values.mean() < high


def test_values_of_one_picture_are_resampled_together():
    # Ten copies of every value carry no more information than the 20 values.
    values = np.random.default_rng(0).normal(size=20)
    once = bootstrap_mean(values, seed=3)
    groups = np.repeat(np.arange(20), 10).tolist()
    copied = bootstrap_mean(np.repeat(values, 10), groups=groups, seed=3)
    assert copied.ci95 == pytest.approx(once.ci95)
    assert (copied.n, copied.clusters, copied.counted) == (200, 20, "200 of 20 pictures")
    assert (once.n, once.clusters, once.counted) == (20, None, "20")


def test_the_same_seed_gives_the_same_interval():
    values = np.arange(10.0)
    assert bootstrap_mean(values, seed=1) == bootstrap_mean(values, seed=1)
    assert bootstrap_mean(values, seed=1) != bootstrap_mean(values, seed=2)


def test_every_resample_draws_as_many_groups_as_the_data_have():
    assert (bootstrap_weights(7, n_resamples=5, seed=0).sum(axis=1) == 7).all()


def test_values_that_are_not_finite_or_lack_a_group_are_refused():
    with pytest.raises(UserError, match="not finite"):
        bootstrap_mean([1.0, float("nan")])
    with pytest.raises(UserError, match="as many groups"):
        bootstrap_mean([1.0, 2.0], groups=["a"])
