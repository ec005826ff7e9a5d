"""Tables are read with the columns and kinds that are needed."""

from dataclasses import dataclass

import pandas as pd
import pytest

from diffusae.errors import UserError
from diffusae.table_files import Kind, read_rows, read_table

TABLE = pd.DataFrame(
    {"n": [1, 2], "x": [0.5, None], "name": ["a", None], "ids": [["a"], []], "png": [b"1", b"2"]}
)


@pytest.fixture
def path(tmp_path):
    TABLE.to_parquet(tmp_path / "x.parquet")
    return tmp_path / "x.parquet"


def test_a_table_with_what_is_needed_is_read(path):
    kinds: dict[str, Kind] = {
        "n": "whole",
        "x": "number",
        "name": "any",
        "ids": "texts",
        "png": "bytes",
    }
    assert read_table(path, kinds, remedy="make it again")["n"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"n": "whole", "gone": "any"}, "it lacks the columns gone"),
        (
            {"x": "whole", "name": "text", "n": "number"},
            r"not of the expected kind: x \(whole\), name \(text\)",
        ),
        ({"ids": "numbers", "png": "text"}, r"ids \(numbers\), png \(text\)"),
    ],
)
def test_missing_columns_and_other_kinds_are_told(path, columns, message):
    with pytest.raises(UserError, match=rf"x.parquet is damaged: .*{message}; make it again"):
        read_table(path, columns, remedy="make it again")


def test_a_cut_table_is_told(path):
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"x.parquet is damaged \(Arrow.*; make it again"):
        read_table(path, {}, remedy="make it again")


@dataclass(frozen=True)
class Fruit:
    name: str
    n: int
    weight: float


def test_rows_become_dataclasses_and_a_column_too_few_is_named(tmp_path):
    table = pd.DataFrame({"name": ["fig", "plum"], "n": [1, 2], "weight": [0.5, float("nan")]})
    table.to_parquet(tmp_path / "fruits.parquet")
    first, second = read_rows(tmp_path / "fruits.parquet", Fruit, remedy="make it again")
    assert first == Fruit("fig", 1, 0.5)
    assert (second.n, second.weight != second.weight) == (2, True)
    table.drop(columns="n").to_parquet(tmp_path / "fruits.parquet")
    with pytest.raises(UserError, match=r"fruits.parquet is damaged.*missing: n.*make it again"):
        read_rows(tmp_path / "fruits.parquet", Fruit, remedy="make it again")
