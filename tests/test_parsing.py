"""JSON with limits, and typed values out of it."""

from dataclasses import dataclass
from typing import Literal

import pytest

from diffusae import parsing
from diffusae.errors import UserError
from diffusae.parsing import call_typed, json_value, of_type, read_json, reading, typed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b'{"a": 1, "a": 2}', "the key 'a' comes twice"),
        (b"[NaN]", "the number nan, which is no JSON"),
        (b"[1e999]", "the number inf"),
        (b'["\\ud800"]', "half of a surrogate pair"),
        (b"[" * 65 + b"]" * 65, "more than 64 levels"),
        (b"[" * 10**6, "not JSON"),
        (b"1" * 5000, "not JSON"),
    ],
)
def test_what_is_no_plain_json_is_told(text, message):
    with pytest.raises(UserError, match=message):
        json_value(text)


def test_plain_json_of_some_depth_is_read():
    assert json_value(b'{"a": [1, 2.5, null, {"\xc3\xa9": "\xf0\x9f\x90\x9f"}]}') == {
        "a": [1, 2.5, None, {"é": "🐟"}]
    }
    assert json_value(b"[" * 60 + b"]" * 60)


def test_a_file_is_named_with_the_remedy(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    with pytest.raises(FileNotFoundError):
        read_json(path, remedy="make it again")
    path.write_text("[1]")
    assert read_json(path, remedy="make it again", kind=list) == [1]
    with pytest.raises(
        UserError,
        match=r"a.json is damaged: it must hold a JSON object, holds a list of 1; make it again",
    ):
        read_json(path, remedy="make it again")
    with pytest.raises(
        UserError, match=rf"{tmp_path} cannot be read \(Is a directory\); make it again"
    ):
        read_json(tmp_path, remedy="make it again")
    monkeypatch.setattr(parsing, "MOST_BYTES", 2)
    with pytest.raises(UserError, match="it has 3 bytes, but at most 2 are read"):
        read_json(path, remedy="make it again", kind=list)


def test_whatever_a_parser_raises_is_one_error():
    with (
        pytest.raises(
            UserError, match=r"x.bin is damaged \(ZeroDivisionError: division by zero\); copy it"
        ),
        reading("x.bin", remedy="copy it"),
    ):
        raise ZeroDivisionError("division by zero")


@dataclass(frozen=True)
class Inner:
    n: int


@dataclass(frozen=True)
class Outer:
    size: tuple[int, int]
    kind: Literal["a", "b"]
    inner: list[Inner]
    names: dict[str, float | None]
    note: str | None = None


GOOD = {"size": [1, 2], "kind": "a", "inner": [{"n": 3}], "names": {"x": 1, "y": None}}


def test_lists_become_tuples_and_objects_dataclasses():
    assert typed(Outer, GOOD) == Outer((1, 2), "a", [Inner(3)], {"x": 1, "y": None})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": [1, 2, 3]}, "size of an outer must have 2 entries, has 3"),
        ({"size": [1, True]}, "an entry of size of an outer must be a whole number, is true"),
        ({"kind": "c"}, 'kind of an outer must be "a" or "b", is "c"'),
        ({"kind": ["a"]}, "is a list of 1"),
        ({"inner": [{"n": 1.0}]}, "n of an inner must be a whole number, is 1.0"),
        ({"inner": {}}, "inner of an outer must be a list, is a JSON object of 0"),
        ({"names": {"x": "1"}}, "'x' in names of an outer must be a number, is \"1\""),
        ({"names": {"x": 10**400}}, "is a number of more than 20 digits"),
        ({"note": 5}, "note of an outer must be text, is 5"),
        ({"extra": 5}, "missing: none; unknown: extra"),
    ],
)
def test_values_of_another_type_are_told_with_their_place(change, message):
    with pytest.raises(UserError, match=message):
        typed(Outer, GOOD | change)


def test_a_missing_field_is_told():
    with pytest.raises(UserError, match=r"an inner has the fields n; missing: n; unknown: none"):
        typed(Inner, {})
    with pytest.raises(UserError, match="an inner must be a JSON object, is null"):
        typed(Inner, None)


def test_arguments_of_a_call_are_checked_like_fields():
    assert call_typed(Inner, {"n": 1}, "the part") == Inner(1)
    for arguments, message in (
        ({}, "missing a required argument: 'n'"),
        ({"n": "x"}, "n of the part must be a whole"),
        ({"m": 1}, "missing a required argument"),
    ):
        with pytest.raises(UserError, match=message):
            call_typed(Inner, arguments, "the part")


def test_a_number_too_large_for_a_float_is_none():
    with pytest.raises(UserError, match="must be a number"):
        of_type(10**400, float, "x")
