"""Conditions compare by the column's type, and refuse values that cannot be compared."""

import datetime
from decimal import Decimal

import pytest

from diffusae.errors import UserError
from diffusae.prompts.conditions import Condition
from diffusae.prompts.selection import Selection

DAY = datetime.date(2024, 5, 31)
NOON = datetime.datetime(2024, 5, 31, 12, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    ("condition", "value", "holds"),
    [
        ("nsfw != true", True, False),
        ("nsfw != true", False, True),
        ("nsfw == TRUE", True, True),
        ("nsfw != true", "True", False),
        ("nsfw == false", "FALSE", True),
        ("nsfw == 'true'", "True", True),
        ("x >= 6", 6, True),
        ("x < 6", 6.0, False),
        ("x == 1.5", Decimal("1.5"), True),
        ("x != 5", 5, False),
        ("x >= 1e2", "100", True),
        # as whole numbers, not rounded to floats
        ("x == 9007199254740993", 9007199254740992, False),
        ("x > 10", "9", False),
        ("x > 10", "unknown", False),
        ("x != '5'", "5", False),
        ("x < inf", 10**400, True),
        ("d >= 2024-05-31", DAY, True),
        ("d < 2024-05-31", DAY, False),
        ("d == 2024-05-31T12:00", NOON, True),
        ("d > 2024-05-31T13:00+02:00", NOON, True),
        ("d < 2024-06-01", "2024-05-31", True),
        ("rating == unlikely", "UNLIKELY", True),
        ("rating != Unlikely", " unlikely ", False),
        ("a b == c d", "C D", True),
    ],
)
def test_values_are_compared_by_their_type(condition, value, holds):
    assert Condition(condition).holds(value) is holds


@pytest.mark.parametrize(
    ("condition", "value", "kind"),
    [
        ("x == 1", True, "booleans"),
        ("x != true", 1, "numbers"),
        ("x == high", 0.5, "numbers"),
        ("x > 5", True, "booleans"),
        ("x != true", "UNLIKELY", "text"),
        ("x != 1", "True", "booleans as text"),
        ("x != high", "0.3", "numbers as text"),
        ("x == 1", DAY, "dates"),
        ("x == 2024-05-31T00:00+02:00", DAY, "dates"),
        ("x == a", ["a"], "lists"),
        ("x == a", {"a": 1}, "objects"),
        ("x == a", b"a", "type bytes"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_the_type_of_the_column(condition, value, kind):
    with pytest.raises(UserError, match=rf"does not suit the column 'x', which holds .*{kind}"):
        Condition(condition).holds(value)


def test_a_column_of_several_types_is_refused():
    condition = Condition("x != 5")
    assert condition.holds(1)
    with pytest.raises(UserError, match=r"holds text here \('hi'\) and numbers before"):
        condition.holds("hi")


@pytest.mark.parametrize("value", [None, float("nan"), Decimal("NaN"), "", " ", "NaN"])
@pytest.mark.parametrize("sign", ["==", "!=", "<"])
def test_a_row_without_a_value_is_left_out_whatever_the_sign(value, sign):
    selection = Selection(where=[f"x {sign} 5"])
    assert not selection.wants("a fish", {"x": value})
    assert selection.left_out == {"without x": 1}


@pytest.mark.parametrize("text", ["x", "x ==", "== 5", "x > high", "x == nan", "x >>= 5", 5])
def test_what_is_no_condition_is_refused(text):
    with pytest.raises(UserError, match=r"prompts.where"):
        Condition(text)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"where": "x == 5"}, "must be a list of conditions"),
        ({"dedupe": "maybe"}, "dedupe=maybe must be true or false"),
        ({"min_words": "x"}, "choose whole numbers"),
        ({"match": 5}, "match=5 is no regular expression"),
        ({"min_script_share": "x"}, "min_script_share=x must be"),
    ],
)
def test_settings_of_another_type_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        Selection(**settings)
