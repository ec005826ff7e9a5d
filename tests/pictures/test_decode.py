import io
import struct
import zlib

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
        picture = decoded(stream.getvalue())
        assert picture.shape == (12, 16, 3) and picture.dtype == np.uint8


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


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(height: int, width: int, data: bytes, *, bits: int = 8, colour: int = 2) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(data))
        + chunk(b"IEND", b"")
    )


def test_values_of_16_bits_keep_their_upper_8() -> None:
    grey = np.array([[0x0102, 0x80FF, 0xFFFF]], dtype=np.uint16)
    for kind in ("PNG", "TIFF"):
        assert decoded(encoded(grey, kind))[0, :, 0].tolist() == [0x01, 0x80, 0xFF]
    assert decoded(png(1, 1, b"\0\x01\xff\x02\xff\x03\xff", bits=16)).tolist() == [[[1, 2, 3]]]


def test_values_of_32_bits_are_refused() -> None:
    with pytest.raises(Undecodable, match="32 bits"):
        decoded(encoded(np.zeros((2, 2), dtype=np.float32), "TIFF"))


@pytest.mark.parametrize("place", range(40, 120, 7))
def test_a_flipped_bit_of_a_png_does_not_pass(place: int) -> None:
    data = bytearray(encoded(pixels(6)))
    data[place] ^= 1
    with pytest.raises(Undecodable):
        decoded(bytes(data))


def test_a_picture_of_several_frames_is_refused() -> None:
    frames = [Image.fromarray(pixels(n)) for n in range(3)]
    for kind in ("PNG", "WEBP", "TIFF"):
        stream = io.BytesIO()
        frames[0].save(stream, kind, save_all=True, append_images=frames[1:])
        with pytest.raises(Undecodable, match="several frames or pages"):
            decoded(stream.getvalue())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it is empty"),
        (b"<!doctype html>", "a page of HTML"),
        (b"GIF89a\1\0\1\0", "it is a GIF, but only JPEG, PNG"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\0\0\0\x18ftypavif", "it is avif"),
        (b"PK\x03\x04", "zip archive"),
        (png(60_000, 60_000, bytes(100)), "make it smaller"),
        (png(10_000, 10_000, bytes(100)), "make it smaller"),
        (png(0, 4, b""), "damaged"),
        (
            encoded(pixels(1))[:33]
            + chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(10**7)))
            + encoded(pixels(1))[33:],
            "too large",
        ),
        (encoded(pixels(1), "JPEG")[:-2], "truncated"),
    ],
)
def test_what_does_not_decode_says_what_it_is_and_what_to_do(data: bytes, message: str) -> None:
    with pytest.raises(Undecodable, match=message):
        decoded(data)


def test_damaged_metadata_of_the_camera_does_not_matter() -> None:
    assert decoded(encoded(pixels(1), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")).shape == (
        12,
        16,
        3,
    )
