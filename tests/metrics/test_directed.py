"""Means over the cases of pictures, as the metrics of edits take them."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from diffusae.evaluation.proportion import share
from diffusae.evaluation.result import NO_DATA, bootstrap_mean
from diffusae.metrics.directed import mean_over

STUDY: Any = SimpleNamespace(seed=3)
SETTINGS: Any = SimpleNamespace(n_resamples=200)
PICTURES = ["a"] * 4 + ["b"] * 4 + ["c"] * 4


@pytest.mark.parametrize("kind", [bool, np.bool_])
def test_truths_are_a_share_over_pictures_with_width_where_all_agree(kind):
    estimate = mean_over(STUDY, SETTINGS, [kind(True)] * 12, PICTURES)
    assert estimate == share([True] * 12, PICTURES)
    assert (estimate.counted, estimate.value) == ("12 of 3 pictures", 1.0)
    assert estimate.ci95 is not None
    assert estimate.ci95[0] < 0.5


def test_numbers_are_resampled_by_picture():
    values = np.repeat([0.1, 0.5, 0.6], 4).tolist()
    estimate = mean_over(STUDY, SETTINGS, values, PICTURES)
    assert estimate == bootstrap_mean(values, groups=PICTURES, n_resamples=200, seed=3)
    assert estimate.clusters == 3
    assert estimate.ci95 != bootstrap_mean(values, n_resamples=200, seed=3).ci95


def test_no_cases_are_no_data():
    assert mean_over(STUDY, SETTINGS, [], []) == NO_DATA
