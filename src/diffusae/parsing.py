"""Reading files that may be damaged or untrusted: any fault becomes a `UserError` that names the
file.

JSON is read with limits. Its objects become dataclasses whose fields have the annotated types.
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
"""Limit of a JSON file. A manifest of a million shards is about this large."""
MOST_DEEP = 64
"""Limit of nested lists and objects, since code that walks JSON recurses. Ours have below 10."""

T = TypeVar("T")


@contextmanager
def reading(path: Path | str, *, remedy: str) -> Iterator[None]:
    """Turn any error of the block into a `UserError` with the file, the reason and the remedy.

    The block must only parse. `FileNotFoundError` passes, since every reader treats it differently.
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
        # Damaged bytes raise errors of every kind
        raise UserError(f"{path} is damaged ({first_words(error)}); {remedy}") from error


def first_words(error: BaseException) -> str:
    """An error's type and up to 200 characters of its message, on one line."""
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
            raise UserError(f"it has {size} bytes, but at most {MOST_BYTES} are read as JSON")
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
        value = json.loads(decoded, object_pairs_hook=without_doubles)
    except UserError:
        raise
    except (ValueError, RecursionError) as error:
        raise UserError(f"it is not JSON ({first_words(error)})") from error
    _check_plain(value)
    return value


def without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object from its (key, value) pairs; `UserError` if a key comes twice."""
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        double = next(name for name in names if names.count(name) > 1)
        raise UserError(f"the key {double[:80]!a} comes twice in one object")
    return value


def _check_plain(value: Any) -> None:
    """Refuse NaN, infinities, half characters and deep nesting; level by level, without
    recursion."""
    level: list[Any] = [value]
    for _ in range(MOST_DEEP):
        deeper: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                deeper.extend(item)
                deeper.extend(item.values())
            elif isinstance(item, list):
                deeper.extend(item)
            elif isinstance(item, float) and not math.isfinite(item):
                raise UserError(f"it has the number {item}, which is no JSON")
            elif isinstance(item, str) and not item.isascii():
                _check_text(item)
        if not (level := deeper):
            return
    raise UserError(f"it is nested more than {MOST_DEEP} levels deep")


def _check_text(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"the text {text[:80]!r} has half of a surrogate pair, which is not a character"
        ) from error


def typed(kind: type[T], value: Any) -> T:
    """A dataclass (with inner ones) from a JSON object. Fields must have their annotated types.

    Raises:
        UserError: it is no object, a field is missing, unknown or of another type, or the class
            itself refuses a value.
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
        **{key: of_type(item, hints[key], f"{key} of {what}") for key, item in value.items()}
    )


@cache
def _fields(kind: Any) -> tuple[dict[str, Any], frozenset[str]]:
    hints = get_type_hints(kind)
    needed = {f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING}
    return {f.name: hints[f.name] for f in fields(kind)}, frozenset(needed)


def call_typed(call: Callable[..., T], arguments: Mapping[str, Any], what: str) -> T:
    """Call with arguments from a JSON object. Arguments must have their annotated types.

    Raises:
        UserError: an argument is missing, unknown or of another type, or the call refuses a value.
            `what` names the thing in the message.
    """
    made = call.__init__ if isinstance(call, type) else call
    hints = get_type_hints(made)
    try:
        signature(call).bind(**arguments)
    except TypeError as error:
        raise UserError(f"{what}: {error}") from error
    return call(
        **{
            name: of_type(item, hints[name], f"{name} of {what}")
            for name, item in arguments.items()
        }
    )


def of_type(value: Any, kind: Any, name: str) -> Any:
    """A JSON value as the type `kind`. Lists become tuples and objects dataclasses where `kind`
    says so.

    Raises:
        UserError: it is of another type. `name` is the value's name in the message.
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
        fits = value in [option for option in inner if type(option) is type(value)]
    elif origin in (Union, types.UnionType):
        return _any_of(value, inner, name)
    elif is_dataclass(kind) and isinstance(kind, type):
        return typed(kind, value)
    elif origin in (tuple, list, Sequence) and isinstance(value, list | tuple):
        return _items(value, origin, inner, name)
    elif origin in (dict, Mapping) and isinstance(value, dict):
        return {
            key: of_type(item, inner[1], f"{key[:80]!r} in {name}") for key, item in value.items()
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
    # For `X | None` the fault of X says more
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
            of_type(item, kind, f"an entry of {name}")
            for item, kind in zip(value, inner, strict=True)
        )
    items = [of_type(item, inner[0], f"an entry of {name}") for item in value]
    return tuple(items) if origin is tuple else items


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
        return " or ".join(json.dumps(option) for option in get_args(kind))
    return _NAMES.get(get_origin(kind) or kind, "a JSON object")


def shown(value: Any) -> str:
    """A JSON value for a message: shortened; of a container its kind and length."""
    if isinstance(value, dict | list | tuple):
        return f"{_NAMES[type(value)]} of {len(value)}"
    # Python refuses to print numbers of thousands of digits
    if isinstance(value, int) and abs(value) > 10**20:
        return "a number of more than 20 digits"
    text = json.dumps(value) if not isinstance(value, float) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
