"""What is measured of edited pictures, by hand."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from diffusae.explorer.steering_scores import Measured, call_at, centre, compared, percentile
from diffusae.exploring.listed_edits import PreparedEdit
from diffusae.interventions.edits import Edit


def prepared(t: float, window: tuple[float, float], *branches: str) -> PreparedEdit:
    cell: Any = SimpleNamespace(t=t, conditioning="uncond")
    edit = Edit("here", lambda updates, grid: updates, window, branches or ("uncond",))
    return PreparedEdit(cell, edit, (0,))


def test_the_percentile_is_the_mean_share_that_is_not_longer():
    held_out = np.array([1.0, 2.0, 3.0, 4.0])
    assert percentile(np.array([2.0, 9.0]), held_out) == 75.0
    assert percentile(np.array([0.5]), held_out) == 0.0


def test_a_measured_change_does_the_same_and_notes_lengths():
    updates = torch.tensor([[[3.0, 4.0], [1.0, 0.0]]])
    added = torch.tensor([[[3.0, 4.0], [0.0, 0.0]]])
    measured = Measured(lambda given, grid: added)
    assert measured(updates, (1, 2)) is added
    ((before, after, changed),) = measured.calls
    assert (before.tolist(), after.tolist()) == ([[5.0, 1.0]], [[10.0, 1.0]])
    assert changed.tolist() == [[True, False]]


def test_the_call_nearest_to_the_cells_t_is_measured_on_its_own_branch():
    """Five steps: t = 1, .75, .5, .25, 0; the window has .75, .5 and .25, with two calls a step."""
    measured = Measured(lambda given, grid: given)
    measured.calls = cast(Any, [(step, branch) for step in (0.75, 0.5, 0.25) for branch in "cu"])
    both = ("cond", "uncond")
    assert call_at(prepared(0.5, (0.75, 0.25), *both), measured, 5) == (0.5, "u")
    assert call_at(prepared(1.0, (0.75, 0.25), *both), measured, 5) == (0.75, "u")
    assert call_at(prepared(0.0, (0.75, 0.25), *both), measured, 5) == (0.25, "u")
    assert call_at(prepared(0.5, (0.9, 0.8)), measured, 5) is None


def test_objects_are_compared_by_size_and_by_how_far_they_went():
    mask = np.zeros((4, 8), bool)
    before, after = mask.copy(), mask.copy()
    before[:2, :2] = True  # centre .25 of the height, .125 of the width
    after[2:, 4:6] = True  # centre .75, .625
    first: Any = SimpleNamespace(masks={"fish": before, "cat": before}, factors={"style": "flat"})
    second = replace_masks(first, {"fish": after})
    made = compared(first, second)
    assert made["objects"]["cat"] == {"before": 0.125, "after": 0.0}
    assert made["objects"]["fish"] == {
        "before": 0.125,
        "after": 0.125,
        "moved": pytest.approx(0.5 * 2**0.5, abs=1e-3),
    }
    assert made["style"] == {"before": "flat", "after": "flat"}
    assert centre(before).tolist() == [0.25, 0.125]
    assert compared(replace_masks(first, {}), replace_masks(first, {}))["objects"] == "none found"


def replace_masks(annotation: Any, masks: dict[str, np.ndarray]) -> Any:
    return SimpleNamespace(masks=masks, factors=annotation.factors)


def test_an_edit_is_measured_without_being_changed():
    one = prepared(0.5, (1.0, 0.0))
    measured = Measured(one.edit.change)
    same = replace(one, edit=replace(one.edit, change=measured))
    updates = torch.ones(1, 2, 3)
    assert torch.equal(one.edit(updates, (1, 2)), same.edit(updates, (1, 2)))
