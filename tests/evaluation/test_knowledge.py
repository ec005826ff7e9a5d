"""Accuracies and their intervals, by hand."""

import numpy as np
import pytest

from diffusae.evaluation.knowledge import accuracy, knowledge_row, majority
from diffusae.evaluation.label_probe import Reading

CELL = {"model": "miniature", "block": "mid", "t": 0.5, "conditioning": "uncond"}


def test_an_accuracy_has_wilsons_interval():
    """8 of 10: centre (8 + z^2 / 2) / (10 + z^2), half width z sqrt(8 * 2 / 10 + z^2 / 4) / (10 + z^2), z = 1.96."""
    found = accuracy(np.arange(10) < 8)
    assert (found.value, found.n) == (0.8, 10)
    z2 = 1.959964**2
    centre, half = (8 + z2 / 2) / (10 + z2), (z2 * (1.6 + z2 / 4)) ** 0.5 / (10 + z2)
    assert found.ci95 == pytest.approx((centre - half, centre + half), abs=1e-6)


def test_all_and_none_have_intervals_within_the_range_and_no_pictures_are_no_data():
    assert accuracy(np.ones(20, bool)).ci95 == (pytest.approx(0.839, abs=1e-3), 1.0)
    assert accuracy(np.zeros(20, bool)).ci95 == (0.0, pytest.approx(0.161, abs=1e-3))
    assert accuracy(np.zeros(0, bool)).value is None


def test_the_majority_is_that_of_the_fitting_pictures_not_of_the_test():
    assert majority(np.array([0, 0, 1]), np.array([1, 1, 1, 0])).value == 0.25
    assert majority(np.array([], int), np.array([1])).value is None


def test_a_row_tells_its_task_reader_baselines_and_what_was_chosen():
    reading = Reading(np.array([True, True, False, True]), 0.9, {"ridge": 0.1})
    row = knowledge_row(
        "object",
        "codes",
        reading,
        baselines={"majority": accuracy(np.array([True, False, False, False]))},
        cell=CELL,
        details={"n_classes": 3},
    )
    assert (row.metric, row.value, row.estimate.n) == ("accuracy_object_codes", 0.75, 4)
    assert row.higher_is_better
    assert row.details == {
        "task": "object",
        "reader": "codes",
        "n_classes": 3,
        "tune_accuracy": 0.9,
        "ridge": 0.1,
    }
    assert row.baselines["majority"].value == 0.25
    nothing = knowledge_row("object", "codes", None, baselines={}, cell=CELL, details={})
    assert nothing.value is None
