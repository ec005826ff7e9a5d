import base64
import io
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from matplotlib.path import Path
from PIL import Image

from diffusae.report.pictures import (
    PictureBook,
    heat,
    heat_colours,
    outline_path,
    pale,
    region,
    score_map,
)


def pixels_of(markup: str) -> np.ndarray:
    (data,) = re.findall(r"data:image/\w+;base64,([^\"]*)", markup)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


def loops_of(path: str) -> list[list[tuple[int, int]]]:
    """The corners of each loop of path data made of M, H, V and Z."""
    loops = []
    for data in path.split("Z")[:-1]:
        steps = re.findall(r"([MHV])([\d ]+)", data)
        x, y = map(int, steps[0][1].split())
        loop = [(x, y)]
        for step, value in steps[1:]:
            x, y = (int(value), y) if step == "H" else (x, int(value))
            loop.append((x, y))
        loops.append(loop)
    return loops


def test_outline_of_a_rectangle_is_its_four_corners() -> None:
    mask = np.zeros((5, 6), dtype=bool)
    mask[1:3, 2:5] = True
    assert outline_path(mask) == "M2 1H5V3H2Z"


def test_outline_of_nothing_is_empty() -> None:
    assert outline_path(np.zeros((3, 3), dtype=bool)) == ""


@settings(max_examples=80, deadline=None)
@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=7), elements=st.booleans()))
def test_outlines_enclose_exactly_the_mask(mask: np.ndarray) -> None:
    loops = loops_of(outline_path(mask))
    rows, columns = mask.shape
    centres = np.stack(
        np.meshgrid(np.arange(columns) + 0.5, np.arange(rows) + 0.5), axis=-1
    ).reshape(-1, 2)
    crossings = np.zeros(mask.size, dtype=int)
    for loop in loops:
        crossings += Path([*loop, loop[0]], closed=True).contains_points(centres)
    np.testing.assert_array_equal(crossings.reshape(mask.shape) % 2 == 1, mask)


def test_outline_and_region_are_stretched_over_a_picture_of_another_size() -> None:
    image = np.zeros((64, 128, 3), dtype=np.uint8)
    mask = np.ones((4, 10), dtype=bool)
    # The picture is drawn 100 wide, so 50 high.
    assert 'transform="scale(10 12.5)"' in region(mask, image, "#123456")
    book = PictureBook()
    book.outline(mask, image, "#123456")
    assert 'transform="scale(10 12.5)"' in book.definitions


def test_heat_map_keeps_its_orientation() -> None:
    values = np.zeros((3, 2))
    values[0, 1] = 2.0  # the upper right
    drawn = pixels_of(heat(values, np.zeros((30, 20, 3), dtype=np.uint8), high=2.0))
    assert drawn.shape == (3, 2, 3)
    brightness = drawn.astype(int).sum(axis=2)
    assert np.argwhere(brightness == brightness.max()).tolist() == [[0, 1]]
    assert len(np.unique(np.delete(brightness.ravel(), 1))) == 1


def test_heat_is_relative_to_the_high_value_and_darkest_at_zero() -> None:
    colours = heat_colours(np.array([[-1.0, 0.0, 1.0, 2.0, 5.0, np.nan]]), low=0.0, high=2.0)[
        0
    ].astype(int)
    brightness = colours.sum(axis=1)
    assert (
        brightness[0]
        == brightness[1]
        == brightness[5]
        < brightness[2]
        < brightness[3]
        == brightness[4]
    )


def test_a_flat_map_is_dark_and_a_score_map_uses_its_own_range() -> None:
    image = np.zeros((8, 8, 3), dtype=np.uint8)
    flat = pixels_of(score_map(np.full((2, 2), 7.0), image, alt=""))
    np.testing.assert_array_equal(flat, heat_colours(np.zeros((2, 2)), low=0.0, high=1.0))
    ranged = pixels_of(score_map(np.array([[-3.0, -1.0]]), image, alt=""))
    np.testing.assert_array_equal(ranged, heat_colours(np.array([[0.0, 1.0]]), low=0.0, high=1.0))


def test_a_small_picture_is_kept_bit_by_bit_and_drawn_with_hard_pixels() -> None:
    image = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    book = PictureBook()
    element = book.picture(image, alt="x")
    np.testing.assert_array_equal(pixels_of(book.definitions), image)
    assert 'class="pixels"' in book.definitions
    assert 'viewBox="0 0 100 75.0"' in element


def test_a_large_picture_is_shrunk_with_its_aspect_kept() -> None:
    book = PictureBook()
    book.picture(np.zeros((256, 512, 3), dtype=np.uint8), alt="x")
    assert pixels_of(book.definitions).shape == (112, 224, 3)
    assert "pixels" not in book.definitions


def test_a_picture_that_is_shown_twice_is_stored_once() -> None:
    image = np.zeros((8, 8, 3), dtype=np.uint8)
    book = PictureBook()
    first, again = book.picture(image, alt="one"), book.picture(image.copy(), alt="two")
    other = book.picture(image + 1, alt="three")
    identifiers = [
        re.findall(r'<use href="#([^"]*)"', drawing)[0] for drawing in (first, again, other)
    ]
    assert identifiers[0] == identifiers[1] != identifiers[2]
    assert book.definitions.count("base64") == 2


def test_pictures_of_equal_bytes_but_another_shape_stay_apart() -> None:
    book = PictureBook()
    for shape in ((4, 8, 3), (8, 4, 3)):
        book.picture(np.zeros(shape, dtype=np.uint8), alt="")
    assert book.definitions.count("base64") == 2


def test_text_alternatives_are_escaped() -> None:
    element = PictureBook().picture(np.zeros((2, 2, 3), dtype=np.uint8), alt='"><script>')
    assert 'aria-label="&#34;&gt;&lt;script&gt;"' in element


@pytest.mark.parametrize(("colour", "grey"), [((0, 0, 0), 160), ((255, 255, 255), 255)])
def test_pale_pictures_are_grey_and_light(colour: tuple[int, int, int], grey: int) -> None:
    image = np.full((2, 2, 3), colour, dtype=np.uint8)
    np.testing.assert_array_equal(pale(image), np.full((2, 2, 3), grey))
