import gzip
import logging
import pickle
from pathlib import Path

import numpy as np
import pytest

from diffusae.errors import UserError
from diffusae.pictures.decode import Undecodable
from diffusae.pictures.tars import WebDatasetPictures
from picture_files import encoded, pixels, sample
from tars import write_tar


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
    with pytest.raises(
        UserError, match=r"sample 'x/1' has no label \(txt\); set collection.source.label"
    ):
        WebDatasetPictures(pattern, label="txt").listed()


class Trap:
    def __reduce__(self) -> tuple:
        raise AssertionError("unpickled")


@pytest.mark.parametrize("extension", ["pyd", "pickle", "pth", "x.pkl"])
def test_a_member_that_could_run_code_is_refused_by_name(tmp_path: Path, extension: str) -> None:
    path = write_tar(
        tmp_path / "a.tar", [*sample("1", 1, "cat"), (f"1.{extension}", pickle.dumps({}))]
    )
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
    whole = write_tar(
        tmp_path / "a.tar", [*sample("1", 1, "cat"), *sample("2", 2, "dog")]
    ).read_bytes()
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


def test_damage_is_named_with_its_place(tmp_path: Path) -> None:
    whole = write_tar(
        tmp_path / "a.tar",
        [("1.png", encoded(pixels(1))), ("1.cls", b"cat"), ("2.png", b"x"), ("2.cls", b"dog")],
    ).read_bytes()
    header = whole.index(b"2.png")
    flipped = bytearray(whole)
    flipped[header + 3] ^= 1
    for name, data in (("cut", whole[: header + 100]), ("flipped", bytes(flipped))):
        (tmp_path / f"{name}.tar").write_bytes(data)
        with pytest.raises(
            UserError,
            match=rf"{name}.tar is not readable as a plain tar: the header at byte {header}",
        ):
            WebDatasetPictures(str(tmp_path / f"{name}.tar")).listed()


def test_unsorted_members_are_told_with_the_command_that_sorts_them(tmp_path: Path) -> None:
    path = write_tar(
        tmp_path / "a.tar", [("0.png", b""), ("1.png", b""), ("0.cls", b"a"), ("1.cls", b"b")]
    )
    with pytest.raises(UserError, match=r"key '0' comes twice or interleaved .*tar --sort=name"):
        WebDatasetPictures(str(path)).listed()


def test_a_picture_whose_name_has_dots_says_what_was_taken_for_what(tmp_path: Path) -> None:
    path = write_tar(
        tmp_path / "a.tar", [("img.v1.png", encoded(pixels(1))), ("img.v1.cls", b"cat")]
    )
    with pytest.raises(
        UserError, match=r"'img.v1.png' has the key 'img' and the extension 'v1.png'"
    ):
        WebDatasetPictures(str(path)).listed()


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b"[1]", "mend the tar"),
        (b'{"breed": ["cat"]}', "not text or a whole number"),
        (b'{"breed": NaN}', "not text or a whole number"),
        (b'{"breed": "a", "breed": "b"}', "comes twice"),
        (b'{"breed": "\\ud800"}', "mend the tar"),
    ],
)
def test_a_label_that_cannot_be_one_is_named(tmp_path: Path, data: bytes, why: str) -> None:
    path = write_tar(tmp_path / "a.tar", [("1.png", encoded(pixels(1))), ("1.json", data)])
    with pytest.raises(UserError, match=f"member '1.json' cannot be read .*{why}"):
        WebDatasetPictures(str(path), label="json.breed").listed()


def test_what_macos_adds_is_passed_over_and_samples_without_a_picture_are_told(
    tmp_path: Path, caplog
) -> None:
    members = [
        ("._1.png", b"macOS"),
        ("__MACOSX/1.png", b"macOS"),
        (".DS_Store", b""),
        *sample("1", 1, "cat"),
        ("2.gif", b"GIF89a"),
    ]
    with caplog.at_level(logging.INFO):
        assert len(WebDatasetPictures(str(write_tar(tmp_path / "a.tar", members))).listed()) == 1
    assert (
        "belong to no sample: 3" in caplog.text and "without a picture, left out: 1" in caplog.text
    )


def test_what_is_no_tar_is_told_for_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "page.tar").write_bytes(b"<html>log in</html>" * 100)
    (tmp_path / "folder.tar").mkdir()
    for name, why in (("page", "a page of HTML"), ("folder", "is no file")):
        with pytest.raises(UserError, match=why):
            WebDatasetPictures(str(tmp_path / f"{name}.tar")).listed()


def test_two_tars_of_one_name_are_refused_since_pictures_are_named_by_their_tar(
    tmp_path: Path,
) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_tar(tmp_path / folder / "x.tar", sample("1", 1, "cat"))
    with pytest.raises(UserError, match=r"2 tars are called 'x.tar'"):
        WebDatasetPictures(str(tmp_path / "*" / "x.tar"))


def test_many_faults_are_counted_rightly(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [(f"{n:02d}.png", b"") for n in range(30)])
    with pytest.raises(UserError, match=r"(?s)^30 faults:.*and 10 more$"):
        WebDatasetPictures(str(path)).listed()
