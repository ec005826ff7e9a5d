import pytest

from diffusae.errors import UserError
from diffusae.prompts.selection import Selection, script_share


def taken(captions, fields=None, **settings):
    selection = Selection(**settings)
    return [c for c in captions if selection.wants(c, fields or {})], dict(selection.left_out)


def test_patterns_keep_and_leave_out_whatever_the_case():
    captions = ["A Fish", "a cat", "a fishing cat"]
    assert taken(captions, match=r"\bfish", exclude="CAT") == (
        ["A Fish"],
        {"not matched": 1, "excluded": 1},
    )


def test_words_are_bounded_on_both_sides_included():
    captions = ["one", "one two", "one two three", "one two three four"]
    assert taken(captions, min_words=2, max_words=3) == (
        captions[1:3],
        {"too short": 1, "too long": 1},
    )


def test_a_caption_is_taken_once_case_and_white_space_apart():
    captions = [
        "a cat",
        "A  Cat ",
        "a dog",
        "e\N{COMBINING ACUTE ACCENT}",
        "\N{LATIN SMALL LETTER E WITH ACUTE}",
    ]
    assert taken(captions, dedupe=True) == (["a cat", "a dog", captions[3]], {"duplicate": 2})
    assert taken(captions)[0] == captions


@pytest.mark.parametrize(
    ("condition", "fields", "wanted"),
    [
        ("aesthetic >= 6", {"aesthetic": 6}, True),
        ("aesthetic >= 6", {"aesthetic": "5.9"}, False),
        ("aesthetic>=6", {"aesthetic": "10"}, True),  # as numbers, not as text
        ("aesthetic < 6", {"aesthetic": None}, False),
        ("nsfw == UNLIKELY", {"nsfw": "UNLIKELY"}, True),
        ("nsfw != UNLIKELY", {"nsfw": "UNLIKELY"}, False),
        ("aesthetic >= 6", {"aesthetic": "unknown"}, False),
    ],
)
def test_conditions_compare_numbers_as_numbers_and_text_as_text(condition, fields, wanted):
    assert Selection(where=[condition]).wants("a cat", fields) is wanted


@pytest.mark.parametrize(
    ("text", "script", "share"),
    [
        ("a red fish, 3 of them!", "latin", 1.0),
        ("café naïve", "latin", 1.0),
        ("кот and", "latin", 0.5),
        ("кот and", "cyrillic", 0.5),
        ("犬と猫", "japanese", 1.0),
        ("犬と猫", "chinese", 2 / 3),
        ("ＡＢ", "latin", 1.0),
        ("123 !?", "thai", 1.0),
    ],
)
def test_the_share_of_a_script_counts_letters_alone(text, script, share):
    assert script_share(text, script) == pytest.approx(share)


def test_captions_in_another_script_are_left_out():
    captions = ["a cat", "кот", "un chat à table"]  # French is not told from English
    assert taken(captions, script="latin") == (
        [captions[0], captions[2]],
        {"not in latin script": 1},
    )


def test_every_bad_setting_is_told_at_once():
    with pytest.raises(UserError) as raised:
        Selection(
            match="(",
            where=["aesthetic", "nsfw > UNLIKELY"],
            max_words=0,
            script="english",
            min_script_share=2,
        )
    for part in (
        "6 faults",
        "match='('",
        "'aesthetic' must be COLUMN SIGN VALUE",
        "use == or !=",
        "max_words=0",
        "'english'; known: arabic, chinese",
        "min_script_share=2",
    ):
        assert part in str(raised.value)
