"""Rows of accuracies, by hand."""

import numpy as np

from diffusae.evaluation.knowledge import knowledge_row, majority
from diffusae.evaluation.label_probe import Reading
from diffusae.evaluation.proportion import share

CELL = {"model": "miniature", "block": "mid", "t": 0.5, "conditioning": "uncond"}


def test_the_majority_is_that_of_the_fitting_pictures_not_of_the_test():
    assert majority(np.array([0, 0, 1]), np.array([1, 1, 1, 0])).value == 0.25
    assert majority(np.array([], int), np.array([1])).value is None


def test_a_row_has_its_task_reader_baselines_and_chosen_settings():
    reading = Reading(np.array([True, True, False, True]), 0.9, {"ridge": 0.1})
    baselines = {"majority": share(np.array([True, False, False, False]))}
    row = knowledge_row(
        "object", "codes", reading, baselines=baselines, cell=CELL, details={"n_classes": 3}
    )
    assert (row.metric, row.value, row.estimate.n) == ("accuracy_object_codes", 0.75, 4)
    assert row.higher_is_better
    chosen = {"n_classes": 3, "tune_accuracy": 0.9, "ridge": 0.1}
    assert row.details == {"task": "object", "reader": "codes", **chosen}
    assert row.baselines["majority"].value == 0.25
    nothing = knowledge_row("object", "codes", None, baselines={}, cell=CELL, details={})
    assert nothing.value is None
