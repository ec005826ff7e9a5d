import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional.classification import binary_jaccard_index

from diffusae.errors import UserError
from diffusae.evaluation.masks import (
    FLAT,
    choose_threshold,
    flat,
    iou_at,
    iou_curve,
    mask_iou,
    relative,
    upsample,
)


@given(st.integers(0, 10_000))
def test_mask_iou_equals_torchmetrics(seed):
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.rand(2, 3, 4, 4, generator=generator) < 0.5
    expected = [
        binary_jaccard_index(a.int(), b.int()).item() for a, b in zip(first, second, strict=True)
    ]
    assert mask_iou(first, second).tolist() == pytest.approx(expected)


def test_an_empty_prediction_has_iou_0():
    mask = torch.ones(1, 2, 2, dtype=torch.bool)
    assert iou_at(torch.zeros(1, 2, 2), mask, 0.5).tolist() == [0]


def test_a_score_at_the_threshold_is_inside():
    mask = torch.tensor([[[True, False]]])
    assert iou_at(torch.tensor([[[0.5, 0.4]]]), mask, 0.5).tolist() == [1]


@given(st.integers(0, 10_000), st.integers(1, 5))
def test_the_curve_equals_cutting_at_every_threshold(seed, n):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(n, 3, 3, generator=generator)
    scores[scores < 0.3] = 0.5  # scores that lie on a threshold
    masks = torch.rand(n, 6, 6, generator=generator) < 0.4
    thresholds = torch.linspace(0, 1, 11)
    expected = [iou_at(scores, masks, t).mean().item() for t in thresholds.tolist()]
    # A threshold as a Python number and as float32 may differ in the last bit.
    assert iou_curve(scores, masks, thresholds).tolist() == pytest.approx(expected, abs=1e-9)


def test_the_chosen_threshold_is_the_best_of_the_curve():
    scores = torch.tensor([[[0.9, 0.6], [0.2, 0.1]]])
    masks = torch.tensor([[[True, True], [False, False]]])
    chosen = choose_threshold(scores, masks, torch.tensor([0.0, 0.15, 0.5, 0.7, 1.0]))
    assert (chosen.value, chosen.tuning_iou) == (0.5, 1.0)
    assert chosen.curve == pytest.approx([0.5, 2 / 3, 1.0, 0.5, 0.0])


def test_no_objects_to_tune_on_are_refused():
    masks = torch.zeros(0, 4, 4, dtype=torch.bool)
    with pytest.raises(UserError, match="enlarge the tuning split"):
        choose_threshold(torch.zeros(0, 2, 2), masks, torch.zeros(1))


def test_relative_scores_use_each_maps_own_range():
    scores = torch.tensor([[[2.0, 4.0, 3.0]], [[-1.0, -1.0, -1.0]]])
    assert relative(scores).tolist() == [[[0, 1, 0.5]], [[0, 0, 0]]]


def test_a_map_that_spans_no_more_than_rounding_is_flat_and_not_stretched():
    scores = torch.tensor([[[0.3, 0.3 + 1e-7, 0.3]], [[0.3, 0.3002, 0.3]]])
    assert flat(scores, of=1.0).tolist() == [True, False]
    assert relative(scores, of=1.0).tolist() == [[[0, 0, 0]], [[0, 1, 0]]]


def test_the_tolerance_of_a_flat_map_is_a_share_of_its_largest_score():
    scores = torch.tensor([[[2.0, 2.00015]], [[-200.0, -200.01]], [[0.002, 0.00201]]]).double()
    assert flat(scores).tolist() == [True, True, False]
    assert flat(scores, of=1.0).tolist() == [False, False, True]
    assert FLAT == 1e-4


def test_upsampling_leaves_maps_of_the_right_size_alone():
    scores = torch.rand(2, 3, 3)
    assert upsample(scores, (3, 3)) is scores
    assert upsample(scores, (6, 9)).shape == (2, 6, 9)
