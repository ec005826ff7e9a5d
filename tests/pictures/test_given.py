import pytest

from diffusae.pictures.given import assign_splits, in_order

NAMES = [
    (f"{kind}/{n:02d}.png", None, {"class": kind}) for kind in ("cat", "dog") for n in range(20)
]
COUNTS: dict[str, int | None] = {"train": None, "test": None}


def by_last_digit(name: str) -> str:
    return "train" if name[-5] < "5" else "test"


def test_every_picture_goes_to_the_split_of_its_name_split_after_split() -> None:
    given = assign_splits(NAMES, counts=COUNTS, split_of=by_last_digit, seed=0)
    assert len(given) == 40 and {picture.split for picture in given[:20]} == {"train"}
    assert all(picture.split == by_last_digit(picture.name) for picture in given)
    assert all(NAMES[picture.place][0] == picture.name for picture in given)


def test_a_count_takes_pictures_of_every_class_and_more_of_them_keep_those_of_fewer() -> None:
    few = assign_splits(NAMES, counts={"train": 6}, split_of=by_last_digit, seed=0)
    more = assign_splits(NAMES, counts={"train": 9}, split_of=by_last_digit, seed=0)
    assert more[:6] == few
    assert {picture.labels["class"] for picture in few} == {"cat", "dog"}
    assert assign_splits(NAMES, counts={"train": 6}, split_of=by_last_digit, seed=1) != few


def test_the_order_of_files_decides_nothing_but_their_places() -> None:
    given = assign_splits(NAMES, counts=COUNTS, split_of=by_last_digit, seed=0)
    turned = assign_splits(NAMES[::-1], counts=COUNTS, split_of=by_last_digit, seed=0)
    assert [picture.name for picture in given] == [picture.name for picture in turned]


def test_a_source_with_splits_of_its_own_keeps_its_order() -> None:
    own = [("b", "test", {}), ("a", "train", {}), ("c", "test", {}), ("d", "tune", {})]
    given = assign_splits(own, counts={"train": 9, "test": 1}, split_of=by_last_digit, seed=0)
    assert [(picture.name, picture.split) for picture in given] == [("a", "train"), ("b", "test")]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["b", "a", "b"], ["a", "b"]),
        (["10", "9", "1"], ["1", "9", "10"]),
        (["10", "9", "x"], ["10", "9", "x"]),
    ],
)
def test_classes_are_ordered_as_numbers_where_all_are_numbers(
    names: list[str], expected: list[str]
) -> None:
    assert in_order(names) == expected
