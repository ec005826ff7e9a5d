"""Damaged pictures, folders and tars: pixels, a reason for what does not decode, or `UserError`."""

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from diffusae.pictures.decode import SUFFIXES, Undecodable, decoded
from diffusae.pictures.folder import PictureFolder
from diffusae.pictures.given import PictureSource
from diffusae.pictures.tars import WebDatasetPictures
from fuzz.mutations import mutated, mutated_tar
from fuzz.only_user_errors import only_user_errors
from picture_files import encoded, pixels, sample
from tars import write_tar

EXIF = Image.Exif()
EXIF[0x0112] = 6
VALID: dict[str, bytes] = {
    "png": encoded(pixels(1), exif=EXIF),
    "grey16": encoded(np.arange(12 * 16, dtype=np.uint16).reshape(12, 16)),
    "jpeg": encoded(pixels(3), "JPEG", exif=EXIF, quality=50),
    "webp": encoded(pixels(4), "WEBP"),
    "bmp": encoded(pixels(5), "BMP"),
    "tiff": encoded(pixels(6), "TIFF", compression="tiff_lzw"),
}


def look(data: bytes) -> None:
    """Pixels, or a reason of one line."""
    why = ""
    try:
        image = decoded(data)
        assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size
    except Undecodable as error:
        why = str(error)
    assert len(why.splitlines()) <= 1


def read(source: PictureSource) -> None:
    """List all pictures and decode each."""
    source.tasks()
    source.fingerprint()
    for place, (name, _, labels) in enumerate(source.listed()):
        "".join([name, *labels.values()]).encode("utf-8")
        with suppress(Undecodable):
            assert source.picture(place).size


@pytest.mark.parametrize("name", VALID)
@given(data=st.data())
def test_damaged_pictures(name: str, data: st.DataObject) -> None:
    with only_user_errors():
        look(data.draw(mutated(VALID[name])))


@pytest.fixture(scope="module")
def tar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tars")
    members = [*sample("x/1", 1, "10"), *sample("x/2", 2, "9"), *sample("y", 3, "9")]
    return write_tar(folder / "whole.tar", members)


LABELS = st.sampled_from(["cls", "json.breed", "txt", None])


@given(data=st.data(), label=LABELS)
def test_damaged_tars(tar: Path, data: st.DataObject, label: str | None) -> None:
    whole, path = tar.read_bytes(), tar.with_name("damaged.tar")
    path.write_bytes(data.draw(st.one_of(mutated(whole), mutated_tar(whole))))
    with only_user_errors():
        read(WebDatasetPictures(str(path), label=label))


NAMES = st.one_of(
    st.sampled_from(
        [f"a{suffix}" for suffix in SUFFIXES]
        + ["._a.png", "a.gif", "a.png.txt", "a.v1.png", "a b.PNG", "é.png"]
    ),
    st.text(
        st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=40
    ).filter(lambda name: name not in (".", "..") and len(name.encode()) < 200),
)


@given(
    files=st.lists(
        st.tuples(NAMES, NAMES, st.sampled_from([*VALID.values(), b"", b"<html>", b"GIF89a"])),
        max_size=3,
    )
)
def test_folders_of_any_names(
    tmp_path_factory: pytest.TempPathFactory, files: list[tuple[str, str, bytes]]
) -> None:
    root = tmp_path_factory.mktemp("folder")
    for folder, name, data in files:
        if not (root / folder).is_file():
            (root / folder).mkdir(exist_ok=True)
            (root / folder / name).write_bytes(data)
    with only_user_errors():
        read(PictureFolder(str(root)))


def test_valid_pictures_are_read(tar: Path) -> None:
    for data in VALID.values():
        assert decoded(data).shape in ((12, 16, 3), (16, 12, 3))
    read(WebDatasetPictures(str(tar)))
    assert len(WebDatasetPictures(str(tar)).listed()) == 3
