import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from composing import dictionary_settings
from diffusae.concepts import maps as maps_module
from diffusae.concepts.maps import (
    LabelOverlap,
    activation_maps,
    iou_matrix,
    label_masks,
    maps_of,
    masks_to_grid,
    resize_maps,
    scale_maps,
    share_of_positions,
)
from diffusae.errors import UserError

# Positions of a 2x2 grid: latent 7 fires at 0 and 3, latent 2 at 1; latent 9 is never active.
VALUES = torch.tensor([[2.0, 0.0], [5.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
INDICES = torch.tensor([[7, 9], [2, 9], [9, 7], [7, 9]])


def test_maps_hold_the_active_latents_of_every_picture_only():
    """In the second picture latent 9 is active at position 2, and no other one."""
    values = torch.stack([VALUES, torch.tensor([[0.0, 0.0], [0.0, 0.0], [3.0, 0.0], [0.0, 0.0]])])
    found = activation_maps(values, torch.stack([INDICES, INDICES]), (2, 2))
    pictures, latents, maps = (part.tolist() for part in found)
    assert (pictures, latents) == ([0, 0, 1], [2, 7, 9])
    assert maps == [[[0, 5], [0, 0]], [[2, 0], [0, 1]], [[0, 0], [3, 0]]]


def test_maps_of_chosen_latents_are_zero_where_they_are_silent():
    assert maps_of(torch.tensor([7, 9]), VALUES, INDICES, (2, 2)).tolist() == [
        [[2, 0], [0, 1]],
        [[0, 0], [0, 0]],
    ]


def test_scaling_by_hand():
    maps = torch.tensor(
        [[[1.0, 2.0], [3.0, 5.0]], [[0.0, 0.0], [0.0, 0.0]], [[4.0, 4.0], [4.0, 4.0]]]
    )
    by_max, by_range = scale_maps(maps, "max"), scale_maps(maps, "minmax")
    torch.testing.assert_close(by_max[0], torch.tensor([[0.2, 0.4], [0.6, 1.0]]))
    torch.testing.assert_close(by_range[0], torch.tensor([[0.0, 0.25], [0.5, 1.0]]))
    assert by_max[1:].unique().tolist() == [0, 1]
    assert by_range[1:].unique().tolist() == [0]


def test_resizing_is_bilinear_between_pixel_centres():
    resized = resize_maps(torch.tensor([[[0.0, 1.0]]]), (1, 4))
    torch.testing.assert_close(resized, torch.tensor([[[0.0, 0.25, 0.75, 1.0]]]))


def test_a_grid_cell_belongs_to_a_mask_that_covers_half_of_it():
    mask = torch.tensor([[1, 1, 1, 0], [0, 0, 0, 0]], dtype=torch.bool)
    assert masks_to_grid(mask[None], (1, 2)).tolist() == [[[True, False]]]


@given(st.integers(0, 10_000))
def test_iou_matrix_equals_counting_pixels(seed):
    generator = np.random.default_rng(seed)
    first, second = generator.random((3, 12)) < 0.4, generator.random((2, 12)) < 0.4
    matrix = iou_matrix(torch.from_numpy(first), torch.from_numpy(second))
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            both, either = sum(a & b), sum(a | b)
            assert matrix[i, j].item() == pytest.approx(both / either if either else 0.0)


def masks_of(**areas):
    return {name: np.array(rows, dtype=bool) for name, rows in areas.items()}


def test_background_is_what_no_mask_covers_small_masks_included():
    masks = masks_of(cat=[[1, 1, 0, 0]], fly=[[0, 0, 1, 0]], ghost=[[0, 0, 0, 0]])
    labels, stack = label_masks(masks, minimum_area=0.3, include_background=True)
    assert labels == ["cat"]
    labels, stack = label_masks(masks, minimum_area=0.0, include_background=True)
    assert labels == ["cat", "fly", "background"]
    assert stack[2].tolist() == [[False, False, False, True]]


def test_a_picture_without_masks_has_no_background_either():
    labels, stack = label_masks({}, minimum_area=0.0, include_background=True)
    assert (labels, len(stack)) == ([], 0)


def overlap(masks, *, values=VALUES, **options):
    """Of one picture: its latents and their IoU with its masks."""
    compared = LabelOverlap(dictionary_settings(**options))
    pictures, latents, iou = compared(values[None], INDICES[None], [masks], (2, 2))
    assert not pictures.any()
    return latents, iou


def test_overlap_on_the_grid_by_hand():
    masks = torch.tensor([[[1, 0], [0, 0]], [[1, 0], [0, 1]]], dtype=torch.bool)
    latents, iou = overlap(masks, resize="mask_to_grid")
    # Latent 2 fires at position 1 only; latent 7 at 0 and 3 (0.5 of its maximum, above 0.1).
    assert latents.tolist() == [2, 7]
    assert iou.tolist() == [[0, 0], [0.5, 1.0]]


def test_every_picture_is_compared_with_its_own_masks_whatever_their_number_and_size():
    two = torch.tensor([[[1, 0], [0, 0]], [[1, 0], [0, 1]]], dtype=torch.bool)
    none, large = torch.zeros(0, 1, 1, dtype=torch.bool), torch.zeros(1, 4, 4, dtype=torch.bool)
    large[0, :2, 2:] = True  # the upper right quarter: position 1
    codes = (torch.stack([VALUES] * 3), torch.stack([INDICES] * 3))
    compared = LabelOverlap(dictionary_settings(resize="mask_to_grid"))
    pictures, latents, iou = compared(*codes, [two, none, large], (2, 2))
    assert pictures.tolist() == [0, 0, 1, 1, 2, 2] and latents.tolist() == [2, 7] * 3
    assert iou.tolist() == [[0, 0], [0.5, 1], [0, 0], [0, 0], [1, 0], [0, 0]]


def test_maps_that_are_resized_a_few_at_once_overlap_alike(monkeypatch):
    mask = torch.rand(2, 8, 8) > 0.5
    whole = overlap(mask)[1]
    monkeypatch.setattr(maps_module, "_PIXELS_AT_ONCE", 64)
    assert torch.equal(overlap(mask)[1], whole)


def test_the_cut_follows_the_activation_threshold():
    masks = torch.tensor([[[1, 0], [0, 0]]], dtype=torch.bool)
    _, iou = overlap(masks, resize="mask_to_grid", activation_threshold=0.6)
    assert iou.tolist() == [[0], [1.0]]


def test_maps_resized_to_the_mask_overlap_with_a_mask_of_its_size():
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[0, :4, 4:] = True
    _, iou = overlap(mask, activation_threshold=0.5)
    # Bilinear from position 1 (upper right): above .5 in the 4x4 quadrant but its inner corner.
    assert 0.8 < iou[0, 0] <= 1
    assert iou[1, 0] < 0.1


@pytest.mark.parametrize(
    "options", [{"activation_threshold": 1.0}, {"scaling": "mean"}, {"resize": "nearest"}]
)
def test_unusable_options_are_refused(options):
    with pytest.raises(UserError):
        dictionary_settings(**options)


def test_the_share_of_a_position_counts_pixels_once_however_many_masks_cover_them():
    first, second = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    first[:2, :2] = True
    second[0, 0] = second[3, 3] = True
    assert share_of_positions([first, second], (2, 2)).tolist() == [1.0, 0.0, 0.0, 0.25]
    assert share_of_positions([], (2, 2)).tolist() == [0.0] * 4
