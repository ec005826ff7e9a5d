"""What a caption asks for and whether a picture shows it, by hand."""

from typing import Any

import pytest

from diffusae.concepts.words import Vocabulary
from diffusae.errors import UserError
from diffusae.evaluation.alignment import Aligned, Asked, alignment, asked_for, shows

NOUNS = Vocabulary(("fish", "boat", "star"))
FACTORS = {"style": ("flat", "neon"), "tone": ("night", "fog")}
CAPTION = "a red fish and a blue boat at night , neon"


def read(caption: str) -> Asked:
    return asked_for(caption, NOUNS.named_in, FACTORS)


def test_a_caption_asks_for_nouns_their_colours_and_a_style():
    asked = read(CAPTION)
    assert set(asked.nouns) == {"fish", "boat"}
    assert asked.colours == {"fish": "red", "boat": "blue"}
    assert asked.factors == {"style": "neon"}
    assert read("nothing of that kind") == Asked()
    assert read("a drawing of a fish").colours == {}


def test_without_the_target_the_rest_is_still_asked_for():
    rest = read(CAPTION).without("fish")
    assert (rest.nouns, rest.colours) == (("boat",), {"boat": "blue"})
    assert rest.factors == {"style": "neon"}
    assert read(CAPTION).without("neon").factors == {}
    assert read(CAPTION).names("neon")
    assert not rest.names("fish")


@pytest.mark.parametrize(
    ("detected", "colours", "style", "wanted"),
    [
        ({"fish", "boat"}, {"fish": "red", "boat": "blue"}, "neon", Aligned(1.0, 1.0, 1.0)),
        ({"fish", "boat"}, {"fish": "red", "boat": "green"}, "neon", Aligned(1.0, 1.0, 0.0)),
        ({"fish"}, {"fish": "red"}, "neon", Aligned(0.5, 1.0, 0.0)),
        ({"fish", "boat", "star"}, {}, "flat", Aligned(1.0, 0.0, 0.0)),
        # An annotator that knows no colours.
        ({"fish", "boat"}, {}, "neon", Aligned(1.0, 1.0, 1.0)),
    ],
)
def test_a_picture_is_aligned_where_all_is_right(detected, colours, style, wanted):
    factors = {"style": style}
    assert alignment(read(CAPTION), detected=detected, colours=colours, factors=factors) == wanted


def test_a_caption_that_asks_for_nothing_is_no_data():
    assert alignment(Asked(), detected={"fish"}, colours={}, factors={}) == Aligned(
        None, None, None
    )


def test_a_target_is_a_noun_or_a_value_and_an_unknown_one_is_refused():
    known = {"nouns": NOUNS, "factors": FACTORS}
    assert shows("fish", detected={"fish"}, recognised={"style": "flat"}, colours={}, **known)
    assert not shows("fish", detected={"boat"}, recognised={"style": "neon"}, colours={}, **known)
    assert shows("neon", detected=set(), recognised={"style": "neon"}, colours={}, **known)
    with pytest.raises(UserError, match=r"cannot tell 'house'.*boat, fish"):
        shows("house", detected=set(), recognised={}, colours={}, **known)


def test_a_colour_is_shown_by_any_object_and_a_coloured_noun_by_its_own():
    known: Any = {"nouns": ["car", "fish"], "factors": {"style": ["flat"]}}
    seen: Any = {"detected": {"car", "fish"}, "recognised": {}, "colours": {"car": "red"}}
    assert shows("red", **known, **seen)
    assert not shows("blue", **known, **seen)
    assert shows("red car", **known, **seen)
    assert not shows("red fish", **known, **seen)
    with pytest.raises(UserError, match="alone or before a noun"):
        shows("red house", **known, **seen)


def test_without_a_colour_the_noun_is_still_asked_for():
    asked = Asked(("car", "fish"), {"car": "blue", "fish": "red"}, {})
    assert asked.names("blue") and asked.names("blue car") and not asked.names("blue fish")
    assert asked.without("blue") == Asked(("car", "fish"), {"fish": "red"}, {})
    assert asked.without("red fish") == Asked(("car", "fish"), {"car": "blue"}, {})
