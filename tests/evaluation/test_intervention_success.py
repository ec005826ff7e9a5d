import numpy as np
import pytest
import torch

from diffusae.errors import UserError
from diffusae.evaluation.intervention_success import (
    FeatureDistance,
    centre_of_mass,
    in_region,
    moved,
    restyled,
)


def mask(*pixels):
    pixels_on = np.zeros((4, 4), bool)
    for row, column in pixels:
        pixels_on[row, column] = True
    return pixels_on


def picture(value):
    return np.full((4, 4, 3), value, np.uint8)


TOP_LEFT = mask((0, 0), (0, 1), (1, 0), (1, 1))


def test_the_centre_of_mass_by_hand():
    assert centre_of_mass(mask((0, 0), (0, 2), (3, 1))) == (1.0, 1.0)
    with pytest.raises(UserError, match="empty mask"):
        centre_of_mass(mask())


def test_an_object_is_where_its_centre_is():
    assert in_region(mask((0, 0), (1, 1), (0, 3)), TOP_LEFT)  # (1/3, 4/3): one pixel lies outside
    assert not in_region(mask((0, 1), (3, 3), (3, 2)), TOP_LEFT)


def test_rows_come_before_columns():
    assert centre_of_mass(mask((0, 3), (1, 3), (2, 0))) == (1.0, 2.0)
    top_right = mask((0, 2), (0, 3), (1, 2), (1, 3))
    assert in_region(mask((0, 3), (1, 3)), top_right)
    assert not in_region(mask((3, 0), (3, 1)), top_right)


def test_a_lost_object_is_no_success():
    before = (picture(0), {"cat": mask((3, 3))})
    lost = moved("cat", TOP_LEFT, before=before, after=(picture(0), {}))
    assert not lost.found and not lost.success


def test_the_rest_is_the_pixels_that_show_the_object_neither_before_nor_after():
    after = picture(0)
    after[3, 3] = 255  # where it was
    after[0, 0] = 255  # where it is now
    after[2, 2] = 51  # of the rest, one pixel in fourteen changes by a fifth
    before, after = (picture(0), {"cat": mask((3, 3))}), (after, {"cat": mask((0, 0))})
    judged = moved("cat", TOP_LEFT, before=before, after=after)
    assert judged.found and judged.success
    assert judged.rest == pytest.approx(0.2 / 14**0.5)


def test_a_restyled_picture_by_hand():
    before = ([0.6, 0.3, 0.1], ["cat", "fish"])
    after = ([0.5, 0.4, 0.1], ["cat", "fish", "star"])
    judged = restyled(1, before=before, after=after, similarity=0.25)
    assert judged.rose and not judged.reached and judged.kept
    assert (judged.score_before, judged.score_after) == (0.3, 0.4)
    assert judged.gain == pytest.approx(0.1)
    assert judged.similarity == 0.25
    judged = restyled(1, before=before, after=([0.2, 0.7, 0.1], ["fish"]), similarity=0.25)
    assert judged.reached and not judged.kept


def test_a_score_that_stays_has_not_risen():
    same = ([0.6, 0.4], ["cat"])
    assert not restyled(1, before=same, after=same, similarity=1.0).rose


def test_distances_of_features_are_in_mean_distances_of_two_pictures():
    def brightness(pictures):
        return torch.from_numpy(pictures.astype(np.float64).mean(axis=(1, 2, 3)))[:, None]

    distance = FeatureDistance(brightness, [picture(0), picture(30), picture(60)])
    assert distance.mean_pair == pytest.approx(40)  # 30, 60 and 30
    before, after = np.stack([picture(10), picture(50)]), np.stack([picture(10), picture(70)])
    assert distance(before, after) == pytest.approx([0.0, 0.5])


def test_distances_need_two_pictures_to_scale_by():
    with pytest.raises(UserError, match="two pictures or more"):
        FeatureDistance(lambda pictures: torch.zeros(len(pictures), 1), [picture(0)])
