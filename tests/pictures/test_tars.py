from __future__ import annotations

import gzip
import pickle
from pathlib import Path

import numpy as np
import pytest

from diffusae.errors import UserError
from diffusae.pictures.decode import Undecodable
from diffusae.pictures.tars import WebDatasetPictures
from picture_files import encoded, pixels, sample, write_tar


@pytest.fixture
def pattern(tmp_path: Path) -> str:
    write_tar(tmp_path / "a-0.tar", [*sample("x/1", 1, "10"), *sample("x/2", 2, "9")])
    write_tar(tmp_path / "a-1.tar", [*sample("x/1", 3, "9"), ("x/9.txt", b"a caption alone")])
    return str(tmp_path / "a-*.tar")


@pytest.mark.parametrize("label", ["cls", "json.breed"])
def test_pictures_come_with_their_labels_in_the_order_of_the_tars(pattern: str, label: str) -> None:
    source = WebDatasetPictures(pattern, label=label)
    assert source.listed() == [
        ("a-0.tar/x/1", None, {"class": "10"}),
        ("a-0.tar/x/2", None, {"class": "9"}),
        ("a-1.tar/x/1", None, {"class": "9"}),
    ]
    assert source.tasks() == {"class": ["9", "10"]}
    for place, n in enumerate((1, 2, 3)):
        assert np.array_equal(source.picture(place), pixels(n))


def test_without_a_label_pictures_have_none(pattern: str) -> None:
    source = WebDatasetPictures(pattern, label=None)
    assert source.tasks() == {} and all(labels == {} for *_, labels in source.listed())


def test_a_missing_label_is_named(pattern: str) -> None:
    with pytest.raises(UserError, match=r"sample 'x/1' has no label \(txt\); set collection.source.label"):
        WebDatasetPictures(pattern, label="txt").listed()


class Trap:
    def __reduce__(self) -> tuple:
        raise AssertionError("unpickled")


@pytest.mark.parametrize("extension", ["pyd", "pickle", "pth", "x.pkl"])
def test_a_member_that_could_run_code_is_refused_by_name(tmp_path: Path, extension: str) -> None:
    path = write_tar(tmp_path / "a.tar", [*sample("1", 1, "cat"), (f"1.{extension}", pickle.dumps({}))])
    with pytest.raises(UserError, match=rf"'1.{extension}' is refused: it could run code"):
        WebDatasetPictures(str(path)).listed()


def test_double_and_interleaved_keys_are_refused_by_name(tmp_path: Path) -> None:
    path = write_tar(
        tmp_path / "a.tar", [*sample("1", 1, "cat"), *sample("2", 2, "dog"), *sample("1", 3, "cat")]
    )
    with pytest.raises(UserError, match="key '1' comes twice or interleaved"):
        WebDatasetPictures(str(path)).listed()
    path = write_tar(tmp_path / "b.tar", [("1.png", b""), ("1.jpg", b""), ("1.cls", b"cat")])
    with pytest.raises(UserError, match="sample '1' holds two pictures"):
        WebDatasetPictures(str(path)).listed()


def test_a_cut_tar_a_compressed_one_and_none_are_refused(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "a.tar", [*sample("1", 1, "cat"), *sample("2", 2, "dog")]).read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[:700])
    (tmp_path / "packed.tar").write_bytes(gzip.compress(whole))
    for name in ("cut", "packed"):
        with pytest.raises(UserError, match="is not readable as a plain tar"):
            WebDatasetPictures(str(tmp_path / f"{name}.tar")).listed()
    with pytest.raises(UserError, match="no file matches"):
        WebDatasetPictures(str(tmp_path / "b-*.tar"))
    with pytest.raises(UserError, match=r"label=json must be cls, txt, json.NAME or null"):
        WebDatasetPictures(str(tmp_path / "a.tar"), label="json")


def test_a_picture_that_does_not_decode_says_why_when_it_is_read(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [("1.png", encoded(pixels(1))[:40]), ("1.cls", b"cat")])
    source = WebDatasetPictures(str(path))
    assert len(source.listed()) == 1
    with pytest.raises(Undecodable):
        source.picture(0)
