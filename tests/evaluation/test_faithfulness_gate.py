"""The rows of a cell and its gate."""

import numpy as np
import pytest
import torch

from diffusae.errors import UserError
from diffusae.evaluation.faithfulness_gate import (
    CONTROL,
    MEAN,
    OWN,
    EditOutcome,
    Gate,
    faithfulness_results,
)

CELL = {"model": "m", "block": "mid", "t": 0.5, "conditioning": "cond"}


def gate_of(**values: float | None) -> Gate:
    asked = {"least_loss_recovered": 0.8, "least_ssim": 0.8, "least_content_kept": 0.9}
    return Gate(**{"most_content_distance": None, **asked, **values})


def outcome(error: float, changed: int = 0, nouns: str = "cat") -> EditOutcome:
    pictures = np.random.default_rng(0).integers(0, 200, (3, 16, 16, 3), dtype=np.uint8)
    pictures[:, :, :changed] = 255
    return EditOutcome(torch.full((4,), error), pictures, [{nouns}, {nouns}, {"dog"}])


def rows(own_edit: EditOutcome, gate: Gate | None = None):
    edited = {OWN: own_edit, MEAN: outcome(2.0, 16, "car"), CONTROL: outcome(1.0)}
    results = faithfulness_results(outcome(1.0), edited, gate=gate or gate_of(), cell=CELL)
    return {row.metric: row for row in results}


def test_a_reconstruction_that_changes_little_is_usable():
    results = rows(outcome(1.1, 1))
    assert results["usable"].value == 1
    assert results["usable"].details["gate"] == "usable"
    assert results["loss_recovered"].value == pytest.approx(0.9)
    assert all(row.details["gate"] == "usable" for row in results.values())


@pytest.mark.parametrize(
    ("edited", "failing"),
    [
        (outcome(1.5), "loss_recovered"),
        (outcome(1.0, 12), "picture_ssim"),
        (outcome(1.0, 0, "car"), "content_kept"),
    ],
)
def test_one_missed_threshold_makes_it_unreliable_and_is_named(edited, failing):
    usable = rows(edited)["usable"]
    assert usable.value == 0
    assert usable.details["gate"] == "unreliable"
    missed = [name for name, holds in usable.details.items() if holds is False]
    assert missed == ["mean_update_passes_too", f"{failing}_passed"]


def test_the_control_passes_and_the_mean_update_does_not():
    baselines = rows(outcome(1.1))["usable"].baselines
    assert baselines[CONTROL].value == 1
    assert baselines[MEAN].value == 0


def test_the_rows_say_where_the_mean_update_passes_too():
    assert not rows(outcome(1.1))["usable"].details["mean_update_passes_too"]
    lenient = gate_of(least_loss_recovered=0, least_ssim=0, least_content_kept=0)
    assert rows(outcome(1.1), lenient)["usable"].details["mean_update_passes_too"]


def test_a_gate_without_thresholds_judges_nothing():
    nothing = gate_of(least_loss_recovered=None, least_ssim=None, least_content_kept=None)
    usable = rows(outcome(9.0), nothing)["usable"]
    assert usable.estimate.n == 0
    assert usable.details["gate"] == "not judged"


def test_every_row_has_the_ablation_and_the_control_as_baselines():
    results = rows(outcome(1.1))
    assert all({MEAN, CONTROL} <= set(row.baselines) for row in results.values())
    assert "other_picture" in results["picture_ssim"].baselines
    assert "halves" in results["content_distance"].baselines


def test_wrong_thresholds_are_reported_together_and_missing_edits_by_name():
    with pytest.raises(UserError) as raised:
        gate_of(least_ssim=2, least_content_kept=-1)
    assert "least_ssim=2" in str(raised.value)
    assert "least_content_kept=-1" in str(raised.value)
    with pytest.raises(UserError, match="no outcome of mean_update, with_error"):
        faithfulness_results(outcome(1), {OWN: outcome(1)}, gate=gate_of(), cell=CELL)
