"""What annotated pictures show, by hand."""

import numpy as np

from diffusae.evaluation.factors import OBJECT, Labels, Seen, children, local_labels, whole_labels

NAMES = {"nouns": ["fish", "star"], "stuff": ["sky"], "colours": ["blue", "red"]}


def half(rows: slice, columns: slice) -> np.ndarray:
    mask = np.zeros((4, 6), dtype=bool)
    mask[rows, columns] = True
    return mask


PICTURE = Seen(
    masks={
        "fish": half(slice(0, 2), slice(0, 2)),
        "star": half(slice(2, 4), slice(3, 6)),  # half of the second position, all of the third
        "sky": half(slice(0, 1), slice(0, 6)),
    },
    colours={"fish": "red", "star": "red"},
    factors={"style": "neon"},
)
"""On a grid of 2 x 3 every position has 2 x 2 pixels."""


def at(labels: Labels, factor: str, value: str, picture: int = 0) -> list[int]:
    column = labels.columns.index((factor, value))
    return labels.holds[picture, :, column].astype(int).tolist()


def test_a_position_has_what_covers_at_least_half_of_it():
    labels = local_labels([PICTURE, Seen()], (2, 3), **NAMES)
    assert at(labels, "noun", "fish") == [1, 0, 0, 0, 0, 0]
    assert at(labels, "noun", "star") == [0, 0, 0, 0, 1, 1]
    assert at(labels, "stuff", "sky") == [1, 1, 1, 0, 0, 0]
    assert at(labels, "colour", "red") == [1, 0, 0, 0, 1, 1]
    assert at(labels, "colour", "blue") == [0] * 6
    assert at(labels, *OBJECT) == [1, 0, 0, 0, 1, 1], "the ground is no object"
    assert at(labels, "noun", "fish", 1) == [0] * 6
    assert labels.pictures[labels.columns.index(("noun", "fish"))] == 1


def test_a_place_is_the_quarter_of_an_object():
    labels = local_labels([PICTURE], (2, 3), **NAMES)
    assert at(labels, "place", "top left") == [1, 0, 0, 0, 0, 0]
    assert at(labels, "place", "top right") == [0] * 6
    assert at(labels, "place", "bottom left") == [0] * 6
    assert at(labels, "place", "bottom right") == [0, 0, 0, 0, 1, 1]


def test_a_child_holds_where_its_noun_and_its_colour_do():
    labels = local_labels([PICTURE], (2, 3), **NAMES)
    families = dict(children(labels))
    assert families[OBJECT].columns == (("noun", "fish"), ("noun", "star"))
    stars = families["noun", "star"]
    assert at(stars, "coloured noun", "red star") == [0, 0, 0, 0, 1, 1]
    assert at(stars, "coloured noun", "blue star") == [0] * 6


def test_whole_factors_hold_for_pictures_and_splits_are_joined_in_order():
    factors = {"style": ("flat", "neon"), "tone": ("day",)}
    labels = whole_labels([PICTURE, Seen(factors={"style": "flat", "tone": "day"})], factors)
    assert labels.columns == (("style", "flat"), ("style", "neon"), ("tone", "day"))
    assert labels.holds[:, 0].tolist() == [[False, True, False], [True, False, True]]
    joined = Labels.joined([labels, labels.only([0, 1, 2])])
    assert joined.flat[:, 1].tolist() == [True, False, True, False]
