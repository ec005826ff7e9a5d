from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from diffusae.pictures.decode import Undecodable, decoded, fitted
from picture_files import encoded, pixels


def test_a_lossless_picture_decodes_to_its_pixels() -> None:
    for kind in ("PNG", "BMP", "TIFF"):
        assert np.array_equal(decoded(encoded(pixels(1), kind)), pixels(1))
    assert decoded(encoded(pixels(1), "JPEG")).shape == (12, 16, 3)


def test_grey_palette_and_transparent_pictures_become_rgb() -> None:
    for mode in ("L", "P", "RGBA", "1", "CMYK"):
        stream = io.BytesIO()
        Image.fromarray(pixels(2)).convert(mode).save(stream, "TIFF" if mode == "CMYK" else "PNG")
        found = decoded(stream.getvalue())
        assert found.shape == (12, 16, 3) and found.dtype == np.uint8


def test_a_picture_stands_the_way_its_camera_says() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    stream = io.BytesIO()
    Image.fromarray(pixels(3)).save(stream, "PNG", exif=exif)
    assert np.array_equal(decoded(stream.getvalue()), np.rot90(pixels(3), -1))


@pytest.mark.parametrize("data", [
    b"", b"no picture", encoded(pixels(4))[:60], encoded(pixels(4), "JPEG")[:-200],
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", b"GIF89a\1\0\1\0\0\0\0;",
])  # fmt: skip
def test_what_is_cut_or_of_another_format_does_not_decode_and_says_why(data: bytes) -> None:
    with pytest.raises(Undecodable, match=r"\w"):
        decoded(data)


def test_a_bomb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    with pytest.raises(Undecodable, match="exceeds limit"):
        decoded(encoded(pixels(5)))


def test_fitting_takes_the_middle_and_leaves_a_picture_of_the_size_alone() -> None:
    picture = np.zeros((10, 30, 3), dtype=np.uint8)
    picture[:, 10:20] = 200  # the middle square
    middle = fitted(picture, 5, 5).astype(int)
    assert np.abs(middle - 200).max() < 15  # but for what a good filter lets in at the edge
    assert fitted(picture, 5, 15).shape == (5, 15, 3)
    assert fitted(picture, 10, 30) is picture
