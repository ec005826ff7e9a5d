"""Reading files that may be damaged or may come from anywhere: every fault becomes one `UserError`
that names the file.

JSON is read with limits, and its objects become dataclasses whose fields have the annotated types.
"""

from __future__ import annotations

import json
import math
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from inspect import signature
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from diffusae.errors import UserError

MOST_BYTES = 256 << 20
"""Of a JSON file: a manifest of a million shards has about as much."""
MOST_DEEP = 64
"""Levels of lists and objects in each other. Ours have below 10, and code that walks through JSON
recurses."""

T = TypeVar("T")


@contextmanager
def reading(path: Path | str, *, remedy: str) -> Iterator[None]:
    """Turn whatever reading a damaged file raises in the block into a `UserError` with the file,
    the reason and the remedy.

    The block only parses; it does nothing that could fail for another reason. A missing file passes
    as `FileNotFoundError`, since it means something else to every reader.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except UserError as error:
        text = str(error)
        raise (
            error if str(path) in text else UserError(f"{path} is damaged: {text}; {remedy}")
        ) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}); {remedy}") from error
    except Exception as error:
        # Every parser has its own kinds of error, and damaged bytes bring up all of them
        raise UserError(f"{path} is damaged ({first_words(error)}); {remedy}") from error


def first_words(error: BaseException) -> str:
    """An error's type and the beginning of what it says, on one line."""
    text = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def read_json(path: Path | str, *, remedy: str, kind: type = dict) -> Any:
    """The JSON value of a file, an object unless `kind` is `list`.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: it cannot be read, or is not JSON as `json_value` says.
    """
    path = Path(path)
    with reading(path, remedy=remedy):
        if (size := path.stat().st_size) > MOST_BYTES:
            raise UserError(
                f"it has {size} bytes, which is more than the {MOST_BYTES} that are read as JSON"
            )
        value = json_value(path.read_bytes())
        if not isinstance(value, kind):
            raise UserError(f"it must hold {_NAMES[kind]}, holds {shown(value)}")
        return value


def json_value(text: bytes | str) -> Any:
    """A JSON value of plain numbers and text.

    Raises:
        UserError: it is not JSON in UTF-8, an object has a key twice, it is nested too deeply, a
            number is NaN or infinite, or text has characters that UTF-8 cannot hold.
    """
    try:
        decoded = text if isinstance(text, str) else bytes(text).decode("utf-8")
        value = json.loads(decoded, object_pairs_hook=_without_doubles)
    except UserError:
        raise
    except (ValueError, RecursionError) as error:
        raise UserError(f"it is not JSON ({first_words(error)})") from error
    _check_plain(value)
    return value


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        raise UserError(
            f"an object has the key {next(n for n in names if names.count(n) > 1)[:80]!r} twice"
        )
    return value


def _check_plain(value: Any) -> None:
    """Level by level, so that depth costs no stack."""
    level: list[Any] = [value]
    for _ in range(MOST_DEEP):
        deeper: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                deeper.extend(each)
                deeper.extend(each.values())
            elif isinstance(each, list):
                deeper.extend(each)
            elif isinstance(each, float) and not math.isfinite(each):
                raise UserError(f"it has the number {each}, which is no JSON")
            elif isinstance(each, str) and not each.isascii():
                _check_text(each)
        if not (level := deeper):
            return
    raise UserError(f"it is nested more than {MOST_DEEP} levels deep")


def _check_text(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"the text {text[:80]!r} has half of a surrogate pair, which is no character"
        ) from error


def typed(kind: type[T], value: Any) -> T:
    """Build a dataclass from a JSON object, each field of the type that it is annotated with; inner
    dataclasses too.

    Raises:
        UserError: it is no object, a field without default is missing, one is unknown or of another
            type, or the class itself refuses a value.
    """
    name = kind.__name__.strip("_").lower()
    what = f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
    if not isinstance(value, dict):
        raise UserError(f"{what} must be a JSON object, is {shown(value)}")
    hints, needed = _fields(kind)
    if not needed <= value.keys() <= hints.keys():
        missing, foreign = sorted(needed - value.keys()), sorted(value.keys() - hints.keys())
        raise UserError(
            f"{what} has the fields {', '.join(sorted(hints))}; missing:"
            f" {', '.join(missing) or 'none'}; unknown: {', '.join(foreign)[:200] or 'none'}"
        )
    return kind(
        **{key: of_type(each, hints[key], f"{key} of {what}") for key, each in value.items()}
    )


@cache
def _fields(kind: Any) -> tuple[dict[str, Any], frozenset[str]]:
    hints = get_type_hints(kind)
    needed = {f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING}
    return {f.name: hints[f.name] for f in fields(kind)}, frozenset(needed)


def call_typed(call: Callable[..., T], arguments: Mapping[str, Any], what: str) -> T:
    """Call with arguments out of a JSON object, each of the type that it is annotated with.

    Raises:
        UserError: an argument is missing, unknown or of another type, or the call refuses a value;
            `what` says of what.
    """
    made = call.__init__ if isinstance(call, type) else call
    hints = get_type_hints(made)
    try:
        signature(call).bind(**arguments)
    except TypeError as error:
        raise UserError(f"{what}: {error}") from error
    return call(
        **{
            name: of_type(each, hints[name], f"{name} of {what}")
            for name, each in arguments.items()
        }
    )


def of_type(value: Any, kind: Any, name: str) -> Any:
    """A JSON value as the type `kind`: lists become tuples where that is asked for, objects
    dataclasses.

    Raises:
        UserError: it is of another type; `name` says whose value it is.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if (
        kind is Any
        or (kind is float and type(value) is int and abs(value) < 2**53)
        or type(value) is kind
    ):
        return value
    if kind is None or kind is types.NoneType:
        fits = value is None
    elif origin is Literal:
        fits = value in [each for each in inner if type(each) is type(value)]
    elif origin in (Union, types.UnionType):
        return _any_of(value, inner, name)
    elif is_dataclass(kind) and isinstance(kind, type):
        return typed(kind, value)
    elif origin in (tuple, list, Sequence) and isinstance(value, list | tuple):
        return _items(value, origin, inner, name)
    elif origin in (dict, Mapping) and isinstance(value, dict):
        return {
            key: of_type(each, inner[1], f"{key[:80]!r} in {name}") for key, each in value.items()
        }
    else:
        fits = False
    if not fits:
        raise UserError(f"{name} must be {_name(kind)}, is {shown(value)}")
    return value


def _any_of(value: Any, kinds: Iterable[Any], name: str) -> Any:
    faults = []
    for kind in kinds:
        try:
            return of_type(value, kind, name)
        except UserError as error:
            faults.append(error)
    # What it must be says more than "or nothing"
    if value is not None and len(faults) == 2 and types.NoneType in kinds:
        raise faults[0]
    raise UserError(
        f"{name} must be {' or '.join(_name(kind) for kind in kinds)}, is {shown(value)}"
    )


def _items(value: Sequence[Any], origin: Any, inner: tuple[Any, ...], name: str) -> Any:
    if origin is tuple and inner[-1] is not Ellipsis:
        if len(value) != len(inner):
            raise UserError(f"{name} must have {len(inner)} entries, has {len(value)}")
        return tuple(
            of_type(each, kind, f"an entry of {name}")
            for each, kind in zip(value, inner, strict=True)
        )
    found = [of_type(each, inner[0], f"an entry of {name}") for each in value]
    return tuple(found) if origin is tuple else found


_NAMES: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    types.NoneType: "null",
    None: "null",
    dict: "a JSON object",
    list: "a list",
    tuple: "a list",
    Mapping: "a JSON object",
    Sequence: "a list",
}


def _name(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(json.dumps(each) for each in get_args(kind))
    return _NAMES.get(get_origin(kind) or kind, "a JSON object")


def shown(value: Any) -> str:
    """A JSON value for a message: shortened, containers by their kind."""
    if isinstance(value, dict | list | tuple):
        return f"{_NAMES[type(value)]} of {len(value)}"
    # Python refuses to print numbers of thousands of digits
    if isinstance(value, int) and abs(value) > 10**20:
        return "a number of more than 20 digits"
    text = json.dumps(value) if not isinstance(value, float) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
