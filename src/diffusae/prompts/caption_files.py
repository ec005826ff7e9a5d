"""Captions in files: text, CSV, JSONL, Parquet and WebDataset tars, read as a stream, each row with its place in the file."""

from __future__ import annotations

import csv
import gzip
import json
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from diffusae.errors import UserError, unknown

ROWS_AT_ONCE = 16_384
"""Rows of a Parquet file that are in memory at one time."""


class Row(NamedTuple):
    """One caption of a file, or what is wrong with its place: `fault` is empty where the text is good.

    `where` is "line 7", "row 7" or "sample 000007"; `fields` are the further columns that were asked for.
    """

    where: str
    text: str
    fault: str = ""
    fields: Mapping[str, Any] = {}


class Format(NamedTuple):
    """How one kind of file is read: suffixes, the column that captions have unless told otherwise, and the reader."""

    suffixes: tuple[str, ...]
    column: str | None
    read: Callable[[Path, str, Sequence[str]], Iterator[Row]]


def format_of(path: Path, name: str | None = None) -> Format:
    """The format of this name, or the one that the suffix tells (`.gz` is looked through).

    Raises:
        UserError: an unknown name or suffix.
    """
    if name is not None:
        if name not in FORMATS:
            raise unknown("format of captions (prompts.format):", name, FORMATS)
        return FORMATS[name]
    suffix = Path(path.stem if path.suffix == ".gz" else path.name).suffix.lower()
    for format in FORMATS.values():
        if suffix in format.suffixes:
            return format
    known = ", ".join(f"{name} ({' '.join(format.suffixes)})" for name, format in FORMATS.items())
    raise UserError(f"{path}: the suffix {suffix!r} tells no format; set prompts.format to one of: {known}")


def read_rows(
    path: Path, *, format: str | None, column: str | None, fields: Sequence[str] = ()
) -> Iterator[Row]:
    """Every row of a file in its order, good and bad.

    Args:
        column: the column, key or member with the caption; None: the format's usual one.
        fields: further columns to give.

    Raises:
        UserError: the file has no such column, or is no file of its format at all.
    """
    found = format_of(path, format)
    if found.column is None and (column or fields):
        raise UserError(f"{path}: a text file has no columns; leave prompts.column and prompts.where out")
    return found.read(path, column or found.column or "", fields)


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path) if path.suffix == ".gz" else open(path, "rb")  # type: ignore[return-value]


def _lines(path: Path) -> Iterator[tuple[str, str, str]]:
    """(where, line without its end, fault) of a UTF-8 file."""
    with _open(path) as file:
        for number, line in enumerate(file, start=1):
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            try:
                yield f"line {number}", line.decode("utf-8").rstrip("\r\n"), ""
            except UnicodeDecodeError as error:
                yield f"line {number}", "", f"not UTF-8 (byte {error.start + 1}); save the file as UTF-8"


def _text(path: Path, _column: str, _fields: Sequence[str]) -> Iterator[Row]:
    for where, line, fault in _lines(path):
        yield Row(where, line, fault)


def _jsonl(path: Path, column: str, fields: Sequence[str]) -> Iterator[Row]:
    for where, line, fault in _lines(path):
        if fault or not line.strip():
            yield Row(where, "", fault)
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            yield Row(where, "", f"not JSON ({error}); mend the line")
            continue
        yield _of_object(where, value, column, fields)


def _of_object(where: str, value: Any, column: str, fields: Sequence[str]) -> Row:
    if not isinstance(value, dict):
        return Row(where, "", f"a {type(value).__name__}, not a JSON object; write one object a line")
    if column not in value:
        has = ", ".join(value) or "nothing"
        return Row(where, "", f"no {column!r}, only {has}; set prompts.column or mend it")
    return _checked(where, value[column], column, {name: value.get(name) for name in fields})


def _checked(where: str, text: Any, column: str, fields: Mapping[str, Any]) -> Row:
    if text is None:
        return Row(where, "", "", fields)  # an empty caption, which the caller tells
    if not isinstance(text, str):
        return Row(where, "", f"{column!r} is a {type(text).__name__}, not text; set prompts.column")
    return Row(where, text, "", fields)


def _csv(path: Path, column: str, fields: Sequence[str]) -> Iterator[Row]:
    delimiter = "\t" if ".tsv" in path.suffixes else ","
    # What is not UTF-8 stays as lone surrogates until its row is known.
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        line = 1
        try:
            header = next(reader, [])
            places = [_place(path, header, name) for name in (column, *fields)]
            line = reader.line_num + 1
            for row in reader:
                where, line = f"line {line}", reader.line_num + 1
                if len(row) != len(header) and row:
                    fault = f"{len(row)} fields where the header has {len(header)}; quote captions with {delimiter!r}"
                    yield Row(where, "", fault)
                    continue
                text, *others = [row[place] for place in places] if row else [""]
                yield Row(where, text, _not_utf8(text), dict(zip(fields, others, strict=False)))
        except csv.Error as error:
            yield Row(f"line {line}", "", f"not CSV ({error}); nothing after it is read; mend the quotes")


def _not_utf8(text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return "not UTF-8; save the file as UTF-8"
    return ""


def _place(path: Path, columns: Sequence[str], name: str) -> int:
    if name not in columns:
        raise UserError(f"{path}: {unknown('column', name, columns)} Set prompts.column or prompts.where")
    return list(columns).index(name)


def _parquet(path: Path, column: str, fields: Sequence[str]) -> Iterator[Row]:
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for name in (column, *fields):
                _place(path, file.schema_arrow.names, name)
            wanted = list(dict.fromkeys((column, *fields)))
            for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, columns=wanted):
                others = {name: _values(batch.column(name)) for name in fields}
                for index, text in enumerate(_values(batch.column(column))):
                    number += 1
                    row = {name: values[index] for name, values in others.items()}
                    if isinstance(text, UnicodeDecodeError):
                        yield Row(f"row {number}", "", "not UTF-8; write the column anew as UTF-8")
                    else:
                        yield _checked(f"row {number}", text, column, row)
    except (pa.ArrowException, OSError) as error:
        told = str(error).strip().splitlines()[0]
        if number == 0:
            raise UserError(
                f"{path} is not readable as Parquet ({told}); copy it again, or set prompts.format"
            ) from error
        yield Row(f"row {number + 1}", "", f"not readable ({told}); nothing after it is read; copy it again")


def _values(column: Any) -> list[Any]:
    try:
        return column.to_pylist()
    except UnicodeDecodeError:  # one of them; find out which
        return [_value(item) for item in column]


def _value(item: Any) -> Any:
    try:
        return item.as_py()
    except UnicodeDecodeError as error:
        return error


def _tar(path: Path, column: str, fields: Sequence[str]) -> Iterator[Row]:
    """`column` is a member's extension (`txt`), or `json.NAME` for a field of the JSON member.

    Members of a sample stand together under one key, as WebDataset asks. Pictures are passed over unread.
    """
    member, _, field = column.partition(".")
    wanted = {member, "json"} if fields else {member}
    key, parts = None, dict[str, bytes]()

    def row() -> Row:
        where = f"sample {key}"
        if member not in parts:
            return Row(where, "", f"no .{member} member; set prompts.column, or mend the tar")
        try:
            meta = json.loads(parts["json"]) if "json" in parts else {}
            given = {name: meta.get(name) for name in fields} if isinstance(meta, dict) else {}
            if field:
                return _of_object(where, meta, field, fields)
            return Row(where, parts[member].decode("utf-8"), "", given)
        except UnicodeDecodeError:
            return Row(where, "", f"its .{member} is not UTF-8; write it as UTF-8")
        except ValueError as error:
            return Row(where, "", f"its .json is not JSON ({error}); mend the tar")

    try:
        with tarfile.open(path) as tar:
            for info in tar:
                if not info.isfile():
                    continue
                folder, slash, name = info.name.rpartition("/")
                stem, _, extension = name.partition(".")
                if (found := folder + slash + stem) != key:
                    if key is not None:
                        yield row()
                    key, parts = found, {}
                if extension.lower() in wanted:
                    data = tar.extractfile(info)
                    assert data is not None  # of a regular file
                    parts[extension.lower()] = data.read()
                tar.members = []  # or every header stays in memory  # type: ignore[assignment]
            if key is not None:
                yield row()
    except (tarfile.TarError, EOFError, OSError) as error:
        if key is None:
            raise UserError(f"{path} is not readable as a tar ({error}); copy it again") from error
        yield Row(f"sample {key}", "", f"the tar is cut or damaged here ({error}); copy it again")


FORMATS: Mapping[str, Format] = {
    "text": Format((".txt", ".text", ".prompts"), None, _text),
    "csv": Format((".csv", ".tsv"), "caption", _csv),
    "jsonl": Format((".jsonl", ".ndjson"), "caption", _jsonl),
    "parquet": Format((".parquet", ".pq"), "caption", _parquet),
    "webdataset": Format((".tar", ".tgz"), "txt", _tar),
}
