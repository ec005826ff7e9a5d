"""Captions of the worlds for studies."""

import re
from collections import Counter

import pytest

from composing import compose
from diffusae.concepts.words import Vocabulary
from diffusae.errors import UserError
from diffusae.miniature.prompts import WorldPrompts
from diffusae.miniature.worlds import SCENES
from diffusae.study.building import build

LABELS = Vocabulary.of(SCENES.labels)


def names_one(text: str) -> bool:
    return len(LABELS.appearances(text)) == 1


def test_the_share_of_captions_with_one_object_is_spread_evenly_and_others_stay_as_they_are():
    counts = {"train": 4, "tune": 6, "test": 8}
    plain = WorldPrompts(counts, "scenes").texts()
    given = WorldPrompts(counts, "scenes", {"tune": 0.5, "test": 0.25}).texts()
    changed = [n for n, (one, other) in enumerate(zip(plain, given, strict=True)) if one != other]
    assert set(changed) <= {5, 7, 9, 13, 17}  # tune begins at 4, test at 10
    assert all(names_one(given[n][1]) for n in (5, 7, 9, 13, 17))
    assert [split for split, _ in given] == [split for split, _ in plain]


def test_more_captions_of_the_last_split_leave_the_earlier_ones_as_they_are():
    few = WorldPrompts({"tune": 4, "test": 4}, "scenes", {"test": 0.5}).texts()
    many = WorldPrompts({"tune": 4, "test": 9}, "scenes", {"test": 0.5}).texts()
    assert many[: len(few)] == few


def test_the_prompts_of_scenes_have_enough_captions_with_one_object_that_was_never_trained_on():
    """Left out is the colour whose number, with those of noun and style, adds up to a multiple
    of 6.
    """
    others = [f"prompts.counts.{split}=0" for split in ("train", "validation", "dictionary")]
    source = build(compose("run", overrides=["prompts=scenes", *others]).prompts, "prompts")
    texts = source.texts()
    single = [(split, text) for split, text in texts if names_one(text)]
    counted = Counter(split for split, _ in single)
    assert counted["test"] >= 50 and counted["tune"] >= 28
    assert texts == source.texts()
    assert len({text for split, text in single if split == "test"}) >= 50
    colours, styles = list(SCENES.colours), list(SCENES.factors["style"])
    for _, text in single:
        [(colour, noun)] = re.findall(rf"a ({'|'.join(colours)}) (\w+)", text)
        [style] = [style for style in styles if style in text.split()]
        place = SCENES.nouns.index(noun) + colours.index(colour) + styles.index(style)
        assert place % 6 == 0, text


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"tests": 0.5}, "unknown split in prompts.one_object: 'tests'"),
        ({"test": 1.5}, r"prompts\.one_object\.test=1\.5 is a share"),
        ({"test": True}, r"prompts\.one_object\.test=True is a share"),
    ],
)
def test_shares_that_are_none_are_refused(shares, message):
    with pytest.raises(UserError, match=message):
        WorldPrompts({"test": 4}, "scenes", shares)
