import numpy as np

from diffusae.concepts.montage import OPACITY, heat_colours, montage


def test_pictures_stand_above_the_same_pictures_under_maps_of_one_scale():
    white = np.full((4, 4, 3), 255, np.uint8)
    strong, weak = np.full((2, 2), 4.0), np.array([[2.0, 0.0], [0.0, 0.0]])
    drawn = montage([(white, strong), (white, weak)], side=8)
    assert drawn.shape == (16, 16, 3)
    assert (drawn[:8] == 255).all()
    colours = heat_colours(np.array([[4.0, 2.0, 0.0]]), low=0.0, high=4.0)[0]
    expected = (255 * (1 - OPACITY) + OPACITY * colours).round().astype(np.uint8)
    assert (drawn[8:, :8] == expected[0]).all()
    assert (drawn[8:12, 8:12] == expected[1]).all()
    assert (drawn[12:, 12:] == expected[2]).all()


def test_a_latent_without_pictures_is_a_grey_square_above_another():
    assert (montage([], side=8) == np.full((16, 8, 3), 128)).all()


def test_a_large_picture_becomes_small():
    assert montage([(np.zeros((512, 512, 3), np.uint8), np.ones((16, 16)))]).shape == (192, 96, 3)
