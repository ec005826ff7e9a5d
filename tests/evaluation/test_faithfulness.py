"""What an edit does to denoising, picture and content, against hand-worked numbers."""

import numpy as np
import pytest
import torch

from diffusae.errors import UserError
from diffusae.evaluation.faithfulness import (
    content_distance,
    content_kept,
    denoising_error_change,
    distance_of_halves,
    loss_recovered,
    picture_mse,
    picture_ssim,
)

OWN = torch.tensor([1.0, 3.0])


def picture(value: int, n: int = 1) -> np.ndarray:
    return np.full((n, 16, 16, 3), value, dtype=np.uint8)


def test_the_change_of_the_error_is_relative_to_the_sum_over_pictures():
    assert denoising_error_change(torch.tensor([2.0, 3.0]), OWN).value == pytest.approx(5 / 4 - 1)
    assert denoising_error_change(OWN, OWN).value == 0


def test_loss_recovered_is_one_for_the_update_and_zero_for_its_mean():
    ablated = torch.tensor([5.0, 7.0])
    assert loss_recovered(OWN, OWN, ablated).value == 1
    assert loss_recovered(ablated, OWN, ablated).value == 0
    # L' = 6, L = 4, L0 = 12: a quarter of the harm is left.
    assert loss_recovered(torch.tensor([3.0, 3.0]), OWN, ablated).value == pytest.approx(0.75)


def test_where_the_mean_update_does_no_harm_nothing_can_be_recovered():
    assert loss_recovered(OWN, OWN, OWN).n == 0
    assert loss_recovered(OWN, OWN, OWN - 0.5).n == 0


def test_pixels_are_compared_in_the_unit_range():
    errors = picture_mse(picture(255), picture(204))
    torch.testing.assert_close(errors, torch.tensor([0.04], dtype=torch.double))


def test_ssim_is_one_for_the_same_picture_and_low_for_its_negative():
    noise = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    assert picture_ssim(noise, noise).tolist() == pytest.approx([1, 1])
    assert picture_ssim(255 - noise, noise).max() < 0
    assert picture_ssim(picture(7), picture(7)).shape == (1,)


def test_pictures_of_another_size_are_refused():
    with pytest.raises(UserError, match="compare the same ones"):
        picture_mse(picture(0), picture(0, n=2))


def test_content_kept_is_the_iou_of_nouns_and_two_pictures_without_nouns_are_no_data():
    after, before = [{"cat"}, {"cat", "dog"}, set(), {"car"}], [{"cat"}, {"cat"}, set(), set()]
    assert content_kept(after, before) == [1, 0.5, 0]


def test_content_distance_is_half_the_sum_of_differences():
    before, after = [{"cat"}, {"cat", "dog"}], [{"cat"}, {"car", "dog"}]
    # cat 2/3 -> 1/3, dog 1/3 -> 1/3, car 0 -> 1/3.
    distance = content_distance(after, before)
    assert distance.value == pytest.approx(1 / 3)
    assert distance.ci95 is not None
    assert distance.ci95[0] <= 1 / 3 <= distance.ci95[1]
    assert content_distance(before, before).ci95 == (0, 0)


def test_swapped_contents_have_no_distance_and_the_interval_still_holds_the_value():
    distance = content_distance([{"cat"}, {"dog"}], [{"dog"}, {"cat"}])
    assert distance.value == 0
    assert distance.ci95 is not None
    assert distance.ci95[0] == 0 < distance.ci95[1]


def test_pictures_without_nouns_are_no_data():
    assert content_distance([set(), set()], [set(), set()]).n == 0
    assert distance_of_halves([set(), set()]).n == 0
    assert distance_of_halves([{"cat"}]).n == 0


def test_halves_of_equal_pictures_are_equal_and_of_different_ones_far_apart():
    assert distance_of_halves([{"cat"}] * 6).value == 0
    assert distance_of_halves([{"cat"}, {"dog"}]).value == 1
