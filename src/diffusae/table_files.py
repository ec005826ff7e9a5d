"""Parquet tables: atomic writing, and reading that checks the needed columns and their kinds."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from diffusae.errors import UserError
from diffusae.files import atomic_path
from diffusae.parsing import reading, typed

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")
Kind = Literal["text", "whole", "number", "bytes", "any", "texts", "numbers"]


def write_table(path: Path | str, table: pd.DataFrame) -> None:
    """Write a table atomically, without its index."""
    with atomic_path(path) as temporary:
        table.to_parquet(temporary, engine="pyarrow", index=False)


def read_table(
    path: Path | str, columns: Mapping[str, Kind], *, remedy: str, without: Collection[str] = ()
) -> pd.DataFrame:
    """A table with at least these columns. A plural kind means lists of any length as values.

    Args:
        without: columns that are not read: lists take long to read.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: it is damaged, a column is missing or of another kind, or a value is missing.
    """
    import pandas as pd
    import pyarrow.parquet as pq

    with reading(path, remedy=remedy):
        with open(path, "rb") as file:
            names = None
            if without:
                names = [name for name in pq.read_schema(file).names if name not in without]
                file.seek(0)
            table: Any = pd.read_parquet(file, engine="pyarrow", columns=names)
        if missing := [name for name in columns if name not in table.columns]:
            raise UserError(f"it lacks the columns {', '.join(missing)}")
        wrong = [
            f"{name} ({kind})" for name, kind in columns.items() if not _fits(table[name], kind)
        ]
        if wrong:
            raise UserError(f"columns are not of the expected kind: {', '.join(wrong)}")
        return table


def read_rows(path: Path | str, kind: type[T], *, remedy: str) -> list[T]:
    """The rows of a table as dataclasses, whose fields are its columns.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: it is damaged, or a column is missing, unknown or of another type.
    """
    rows: Any = read_table(path, {}, remedy=remedy).to_dict("records")
    with reading(path, remedy=remedy):
        return [typed(kind, row) for row in rows]


def _fits(column: Any, kind: Kind) -> bool:
    import pandas as pd

    types = pd.api.types
    if kind == "any":
        return True
    if kind == "number":
        return types.is_numeric_dtype(column) and not types.is_bool_dtype(column)
    if kind == "whole":
        return types.is_integer_dtype(column) and not column.isna().any()
    if kind in ("texts", "numbers"):
        inner = str if kind == "texts" else (int, float)
        return all(
            hasattr(row, "__len__") and all(isinstance(item, inner) for item in row)
            for row in column
        )
    return all(isinstance(value, str if kind == "text" else bytes) for value in column)
