import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffusae.errors import UserError
from diffusae.pictures.decode import Undecodable
from diffusae.pictures.folder import PictureFolder
from picture_files import encoded, pixels, put


@pytest.fixture
def root(tmp_path: Path) -> Path:
    put(tmp_path / "dog" / "a.png", encoded(pixels(1)))
    put(tmp_path / "cat" / "deep" / "B.JPG", encoded(pixels(2), "JPEG"))
    put(tmp_path / "loose.png", encoded(pixels(3)))
    put(tmp_path / "cat" / "notes.txt", b"no picture")
    put(tmp_path / ".hidden" / "c.png", encoded(pixels(4)))
    return tmp_path


def test_the_first_folder_is_the_class_and_what_is_no_picture_is_passed_over(root: Path) -> None:
    source = PictureFolder(str(root))
    assert source.listed() == [
        ("cat/deep/B.JPG", None, {"class": "cat"}),
        ("dog/a.png", None, {"class": "dog"}),
        ("loose.png", None, {}),
    ]
    assert source.tasks() == {"class": ["cat", "dog"]}
    assert np.array_equal(source.picture(1), pixels(1))


def test_a_picture_that_does_not_decode_is_listed_and_says_why_when_it_is_read(root: Path) -> None:
    put(root / "dog" / "bad.png", encoded(pixels(5))[:50])
    source = PictureFolder(str(root))
    with pytest.raises(Undecodable):
        source.picture([name for name, *_ in source.listed()].index("dog/bad.png"))


def test_the_fingerprint_is_that_of_names_and_sizes_wherever_the_folder_lies(
    root: Path, tmp_path_factory
) -> None:
    first = PictureFolder(str(root)).fingerprint()
    moved = root.rename(tmp_path_factory.mktemp("elsewhere") / "pictures")
    assert PictureFolder(str(moved)).fingerprint() == first
    put(moved / "dog" / "b.png", encoded(pixels(6)))
    assert PictureFolder(str(moved)).fingerprint() != first


def test_no_folder_and_a_folder_without_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="path is null"):
        PictureFolder(None)
    with pytest.raises(UserError, match="there is no folder"):
        PictureFolder(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="holds no pictures"):
        PictureFolder(str(tmp_path)).listed()


def test_links_to_nothing_and_pipes_are_named_and_never_waited_for(root: Path) -> None:
    os.symlink(root / "nowhere.png", root / "cat" / "link.png")
    os.mkfifo(root / "cat" / "pipe.png")
    source = PictureFolder(str(root))
    source.fingerprint()
    for place, why in ((1, "a link to a missing file"), (2, "a pipe or a device")):
        with pytest.raises(Undecodable, match=why):
            source.picture(place)


def test_what_is_left_out_is_told(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    os.symlink(root / "dog", root / "wolf")
    put(root / "dog" / "c.gif", b"GIF89a")
    put(root / "dog" / "._a.png", b"of macOS")
    put(root / "__MACOSX" / "dog" / "b.png", b"of macOS")
    with caplog.at_level(logging.INFO):
        assert len(PictureFolder(str(root)).listed()) == 3
    for message in (
        "not followed: 1, such as wolf",
        "unread formats, left out: .gif: 1",
        "skipped: 1",
        "are no pictures: 1",
    ):
        assert message in caplog.text


def test_names_that_are_not_utf8_are_refused(root: Path) -> None:
    with open(os.path.join(os.fsencode(root), b"\xff.png"), "wb") as file:
        file.write(encoded(pixels(1)))
    with pytest.raises(UserError, match=r"the name '\\udcff.png' below .* is not UTF-8; rename it"):
        PictureFolder(str(root)).listed()


@pytest.mark.parametrize("path", [5, "x" * 5000, "a\0b"])
def test_a_path_that_cannot_be_one_is_refused(path: Any) -> None:
    with pytest.raises(UserError, match=r"must be one text|there is no folder"):
        PictureFolder(path)
