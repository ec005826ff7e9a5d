import numpy as np
import pytest
import torch
from PIL import Image

from diffusae.errors import UserError
from diffusae.interventions.regions import NAMED, Region


def test_quadrants_split_an_even_grid():
    names = ("top_left", "top_right", "bottom_left", "bottom_right")
    shares = torch.stack([Region(name).shares((4, 4)) for name in names])
    assert torch.equal(shares.sum(dim=0), torch.ones(16))
    right, none = [0, 0, 1, 1], [0, 0, 0, 0]
    assert shares[1].reshape(4, 4).tolist() == [right, right, none, none]


def test_on_an_odd_grid_the_middle_belongs_to_both_halves():
    left, right = Region("left").shares((1, 3)), Region("right").shares((1, 3))
    assert left[1] == pytest.approx(0.5, abs=0.02)
    assert torch.allclose(left + right, torch.ones(3), atol=0.02)


@pytest.mark.parametrize("name", NAMED)
def test_every_name_has_the_area_that_it_says(name):
    top, bottom, left, right = NAMED[name]
    assert Region(name).mask((64, 32)).float().mean() == (bottom - top) * (right - left)


def test_a_painted_mask_is_its_bright_pixels(tmp_path):
    pixels = np.zeros((20, 40), dtype=np.uint8)
    pixels[10:, :20] = 200
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    region = Region(tmp_path / "mask.png")
    assert region.shares((2, 2)).tolist() == [0, 0, 1, 0]
    assert torch.equal(region.mask((20, 40)), torch.from_numpy(pixels > 0))


def test_a_region_is_shown_by_darkening_the_rest():
    picture = np.full((4, 4, 3), 200, np.uint8)
    lit = Region("top_left").lit(picture)
    assert (lit[:2, :2] == 200).all() and (lit[2:] == 50).all() and (lit[:, 2:] == 50).all()
    assert (picture == 200).all() and lit.dtype == np.uint8


def test_an_unusable_region_is_refused(tmp_path):
    with pytest.raises(UserError, match="top_left"):
        Region("topleft")
    with pytest.raises(UserError, match="no region"):
        Region(tmp_path / "absent.png")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(UserError, match="not a picture"):
        Region(tmp_path / "text.png")
    Image.new("L", (8, 8)).save(tmp_path / "black.png")
    with pytest.raises(UserError, match="no bright pixel"):
        Region(tmp_path / "black.png")
    dot = Image.new("L", (64, 64))
    dot.putpixel((0, 0), 255)
    dot.save(tmp_path / "dot.png")
    with pytest.raises(UserError, match="paint a larger one"):
        Region(tmp_path / "dot.png").shares((4, 4))


def test_rows_paint_a_region_over_the_whole_picture():
    region = Region.of_rows(["0011", "0000"])
    assert region.shares((2, 2)).tolist() == [0, 1, 0, 0]
    assert region.shares((2, 4)).tolist() == [0, 0, 1, 1, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("rows", "message"),
    [([], "equally long"), (["01", "0"], "equally long"), (["0x"], "0 and 1"), (["00"], "empty")],
)
def test_rows_that_paint_nothing_are_refused(rows, message):
    with pytest.raises(UserError, match=message):
        Region.of_rows(rows)
