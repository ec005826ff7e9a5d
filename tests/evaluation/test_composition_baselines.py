import numpy as np
import pytest
import torch

from diffusae.evaluation.composition import Split
from diffusae.evaluation.composition_baselines import (
    annotator_ceiling,
    centre_disc,
    centre_prior,
    chance,
    other_picture,
    score_map_baseline,
    score_map_iou,
)
from diffusae.evaluation.result import NO_DATA


def split(*objects):
    """Objects as (image id, noun, mask)."""
    image_ids = list(dict.fromkeys(name for name, _, _ in objects))
    masks = [torch.tensor(rows, dtype=torch.bool) for _, _, rows in objects]
    return Split(
        values=torch.zeros(len(image_ids), 4, 1),
        indices=torch.zeros(len(image_ids), 4, 1, dtype=torch.long),
        grid=(2, 2),
        picture=torch.tensor([image_ids.index(name) for name, _, _ in objects], dtype=torch.long),
        image_ids=image_ids,
        nouns=[noun for _, noun, _ in objects],
        masks=torch.stack(masks) if masks else torch.zeros(0, 2, 2, dtype=torch.bool),
    )


LEFT, TOP, ALL = [[1, 0], [1, 0]], [[1, 1], [0, 0]], [[1, 1], [1, 1]]


def test_chance_is_the_iou_with_the_same_noun_elsewhere():
    objects = split(("a", "cat", LEFT), ("b", "cat", TOP), ("c", "cat", ALL), ("c", "dog", ALL))
    # LEFT-TOP 1/3, LEFT-ALL 1/2, TOP-ALL 1/2; the only dog has no partner.
    pairs = [(1 / 3 + 1 / 2) / 2, (1 / 3 + 1 / 2) / 2, 1 / 2]
    estimate = chance(objects)
    assert estimate.value == pytest.approx(np.mean(pairs))
    assert estimate.n == 3


def test_chance_can_be_limited_to_fewer_partners_and_repeats_with_its_seed():
    objects = split(*[(str(i), "cat", [LEFT, TOP, ALL][i % 3]) for i in range(9)])
    assert chance(objects, per_object=1, seed=4) == chance(objects, per_object=1, seed=4)
    assert chance(objects, per_object=1, seed=4) != chance(objects, per_object=8, seed=4)


def test_chance_without_partners_is_no_data():
    assert chance(split(("a", "cat", LEFT), ("a", "dog", LEFT))) == NO_DATA


def test_the_prior_predicts_where_the_noun_usually_is():
    tuning = split(("a", "cat", LEFT), ("b", "cat", LEFT), ("c", "dog", TOP))
    test = split(("d", "cat", LEFT), ("e", "dog", LEFT))
    assert centre_prior(tuning, test).value == pytest.approx((1 + 1 / 3) / 2)


def test_a_noun_that_was_never_seen_gets_the_mean_mask_of_all():
    tuning = split(("a", "cat", LEFT), ("b", "dog", LEFT))
    assert centre_prior(tuning, split(("d", "cow", LEFT))).value == 1


def test_the_disc_takes_the_radius_of_the_tuning_split():
    inner = torch.zeros(8, 8, dtype=torch.bool)
    inner[3:5, 3:5] = True
    tuning = split(("a", "cat", inner.tolist()))
    assert centre_disc(tuning, split(("b", "cow", inner.tolist()))).value == 1
    assert centre_disc(tuning, split(("b", "cow", (~inner).tolist()))).value == 0


@pytest.mark.parametrize("per_map", [False, True])
def test_score_maps_choose_their_threshold_on_the_tuning_split(per_map):
    tuning, test = split(("a", "cat", LEFT)), split(("b", "cat", TOP))
    good = torch.tensor([[[40.0, 10.0], [30.0, 10.0]]])
    assert score_map_iou(good, good.mT, tuning=tuning, test=test, per_map=per_map).tolist() == [1]


def test_the_baseline_of_score_maps_is_their_mean_iou():
    tuning, test = split(("a", "cat", LEFT)), split(("b", "cat", LEFT), ("c", "cat", TOP))
    good = torch.tensor([[[40.0, 10.0], [30.0, 10.0]]])
    estimate = score_map_baseline(good, good.expand(2, -1, -1), tuning=tuning, test=test)
    assert (estimate.value, estimate.n) == (pytest.approx((1 + 1 / 3) / 2), 2)


def test_the_prediction_of_another_picture_is_used_not_the_own():
    test = split(("a", "cat", LEFT), ("b", "cat", TOP), ("c", "dog", ALL))
    own = test.masks.float()
    estimate = other_picture(own, test, threshold=0.5)
    assert estimate.value == pytest.approx(1 / 3)
    assert estimate.n == 2


def test_the_ceiling_is_the_iou_with_a_second_annotation_where_there_is_one():
    objects = split(("a", "cat", LEFT), ("b", "cat", TOP))
    estimate = annotator_ceiling(objects, [torch.tensor(ALL, dtype=torch.bool), None])
    assert (estimate.value, estimate.n) == (0.5, 1)
    assert annotator_ceiling(objects, [None, None]) == NO_DATA


def test_baselines_of_an_empty_test_split_are_no_data():
    tuning, empty = split(("a", "cat", LEFT)), split()
    assert chance(empty) == NO_DATA
    assert centre_prior(tuning, empty) == NO_DATA
    assert centre_disc(tuning, empty) == NO_DATA
    assert other_picture(torch.zeros(0, 2, 2), empty, threshold=0.5) == NO_DATA
