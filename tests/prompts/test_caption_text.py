import pytest

from diffusae.prompts.caption_text import caption_fault, untyped_fault


@pytest.mark.parametrize(
    "text",
    [
        "a red fish",
        "犬と猫",
        "👨‍👩‍👧",
        "e\u0301",
        "a\nb",
        "?",
        "1984",
        "\ue000",
        "می‌خواهم",
        "a\u200bb",
        "none of them",
    ],
)
def test_what_somebody_can_see_is_a_caption(text):
    assert caption_fault(text) == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\u200b", "U+200B ZERO WIDTH SPACE"),
        ("\u202e\u202c", "RIGHT-TO-LEFT OVERRIDE"),
        ("\u0301", "COMBINING ACUTE ACCENT"),
        ("\u3164", "HANGUL FILLER"),
        ("\xad", "SOFT HYPHEN"),
        ("\ufe0f", "VARIATION SELECTOR"),
        ("\ufeff", "ZERO WIDTH NO-BREAK SPACE"),
        ("a\x00b", "U+0000"),
        ("\x1b[31mred", "U+001B"),
        ("a\u2028b", "LINE SEPARATOR"),
        ("a \ud83d", "half of a surrogate pair"),
        ("nan", "missing caption"),
        (" None", "missing caption"),
        ("NULL", "missing caption"),
        ("x" * 65_537, "65537 characters"),
    ],
)
def test_what_nobody_can_see_or_mean_is_told(text, message):
    assert message in caption_fault(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("7", "number 7"),
        ("-1.5e3", "number"),
        ("inf", "number"),
        ("['a', 'b']", "list"),
        ('["a"]', "list"),
        ("7 fish", ""),
        ("[a] fish", ""),
    ],
)
def test_numbers_and_lists_in_files_without_types_are_told(text, message):
    assert message in untyped_fault(text) and bool(message) == bool(untyped_fault(text))
