"""Captions in Parquet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from diffusae.errors import UserError
from diffusae.prompts.csv_files import require_once
from diffusae.prompts.rows import Reading, Row, of_value


def parquet_rows(path: Path, how: Reading) -> Iterator[Row]:
    """One caption per row."""
    number = 0
    try:
        schema = pq.read_schema(path)
        for name in how.names:
            require_once(path, schema.names, name)
        if not _is_text(schema.field(how.column).type):
            kind = schema.field(how.column).type
            raise UserError(
                f"{path}: the column {how.column!r} is of type {kind}, not text; set prompts.column"
            )
        # Dictionary columns stay dictionaries: a long text for a million rows is stored once.
        texts = [name for name in how.names if _is_text(schema.field(name).type)]
        with pq.ParquetFile(path, read_dictionary=texts, page_checksum_verification=True) as file:
            for batch in file.iter_batches(batch_size=how.rows_at_once, columns=list(how.names)):
                columns = [_values(batch.column(name)) for name in how.names]
                for values in zip(*columns, strict=True):
                    number += 1
                    yield _row(f"row {number}", values, how)
    except (pa.ArrowException, OSError, MemoryError, OverflowError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if number == 0:
            remedy = "copy it again, or set prompts.format"
            raise UserError(f"{path} is not readable as Parquet ({reason}); {remedy}") from error
        fault = f"not readable ({reason}); nothing after it is read; copy it again"
        yield Row(f"row {number + 1}", "", fault, ends=True)


def _row(where: str, values: Sequence[Any], how: Reading) -> Row:
    """The row with these values of `how.names`."""
    for name, value in zip(how.names, values, strict=True):
        if isinstance(value, UnicodeDecodeError):
            return Row(where, "", "not UTF-8; write the column anew as UTF-8")
        if isinstance(value, ValueError):
            fault = f"{name!r} has a value that cannot be read ({value}); write it anew"
            return Row(where, "", fault)
    fields = dict(zip(how.names, values, strict=True)) if how.fields else {}
    return of_value(where, values[0], how.column, fields)


def _is_text(kind: pa.DataType) -> bool:
    held = kind.value_type if pa.types.is_dictionary(kind) else kind
    return any(
        test(held)
        for test in (
            pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view,
            pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view,
        )
    )  # fmt: skip


def _values(column: pa.Array) -> Iterator[Any]:
    """The values one by one, with the error in place of a value that is not UTF-8.

    An entry of a dictionary is decoded once.

    Raises:
        pa.ArrowInvalid: the column points outside of its own data.
    """
    column.validate()
    if isinstance(column, pa.DictionaryArray):
        values: dict[int | None, Any] = {None: None}
        for index in column.indices.to_pylist():
            if index not in values:
                if not 0 <= index < (count := len(column.dictionary)):
                    raise pa.ArrowInvalid(f"entry {index} of a dictionary of {count}")
                values[index] = _value(column.dictionary[index])
            yield values[index]
    else:
        yield from map(_value, column)


def _value(item: pa.Scalar) -> Any:
    try:
        value = item.as_py()
        return value.decode("utf-8-sig") if isinstance(value, bytes) else value
    except (UnicodeDecodeError, ValueError) as error:
        return error
