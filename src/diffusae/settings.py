"""Settings of a part: a dataclass that reads its part of the configuration and validates itself.

A setting is one annotated field. The annotation says what the value must be: `bool`, a `Literal` of
the known names, or `Annotated` with a rule, such as `Within` for the range of a number. With
`| None` it may be null; in `list[...]` every entry must fit. Values of other types are taken as
they are. A rule is an object whose `broken(value, type)` says what the value must be, or None where
it is so; its `example`, if it has one, is shown where the value is missing.

Defaults stand in the YAML files alone. Messages show values as YAML writes them: null, true, false.

    @dataclass(frozen=True, kw_only=True)
    class TrainerSettings(Settings, part="trainer"):
        steps: Annotated[int, Within(1, 10**9)]

    TrainerSettings.of(cfg).steps

For `trainer.steps=0` this raises "trainer.steps=0 must be a whole number from 1 to 1e+09".
"""

from __future__ import annotations

import json
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import (
    Annotated,
    Any,
    ClassVar,
    Literal,
    Self,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from omegaconf import DictConfig, ListConfig, OmegaConf

from diffusae.errors import together, unknown

_MISSING = "???"
"""What a configuration has in the place of a value that the user must give."""


@dataclass(frozen=True)
class Within:
    """A number in a range to which both ends belong; a whole one where the type is `int`."""

    least: float
    greatest: float

    def broken(self, value: Any, kind: type) -> str | None:
        """Such as "must be a number from 0 to 1"; None where the value is so."""
        whole = kind is int
        fits = is_number(value) and (isinstance(value, int) or not whole)
        if fits and self.least <= value <= self.greatest:
            return None
        sort = "whole number" if whole else "number"
        return f"must be a {sort} from {self.least:g} to {self.greatest:g}"


@dataclass(frozen=True)
class Given:
    """A text that may not be empty; `must` says what it must be, and how to give it."""

    must: str

    def broken(self, value: Any, kind: type) -> str | None:
        """`must`; None where there is a text."""
        return None if isinstance(value, str) and value.strip() else self.must


class Settings:
    """The base of settings dataclasses.

    Raises:
        UserError: values that do not fit, all in one message, by their names in the configuration.
    """

    _part: ClassVar[str]
    """Which part of the configuration this is; empty: its root."""

    def __init_subclass__(cls, *, part: str) -> None:
        cls._part = part

    def __post_init__(self) -> None:
        together(fault for _, fault in self._faults_of(vars(self)))

    @classmethod
    def of(cls, cfg: DictConfig) -> Self:
        """The settings in a composed configuration. Other entries of the part are left alone: some
        are there for others to refer to, as `sae.l1` is."""
        return cls(**cls._values(cfg))

    @classmethod
    def unchecked(cls, cfg: DictConfig) -> Self:
        """The same where values may be wrong: for checks that ask first which of them are not."""
        settings = object.__new__(cls)
        vars(settings).update(cls._values(cfg))
        return settings

    @classmethod
    def faults_in(cls, cfg: DictConfig) -> Iterator[tuple[str, str]]:
        """The name of every setting that does not fit, such as `trainer.steps`, and why."""
        return cls._faults_of(cls._values(cfg))

    @classmethod
    def _values(cls, cfg: DictConfig) -> dict[str, Any]:
        node = cfg[cls._part] if cls._part else cfg
        return {name: _plain(node, name) for name in _kinds(cls)}

    @classmethod
    def _faults_of(cls, values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        for name, kind in _kinds(cls).items():
            dotted = f"{cls._part}.{name}" if cls._part else name
            if fault := _fault(dotted, values[name], kind):
                yield dotted, fault


def is_number(value: Any) -> bool:
    """Whether a configured value is a number; `true` and `false` are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


@cache
def _kinds(cls: Any) -> dict[str, Any]:
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in fields(cls)}


def _plain(node: DictConfig, name: str) -> Any:
    if OmegaConf.is_missing(node, name):
        return _MISSING
    value = OmegaConf.select(node, name)
    if isinstance(value, DictConfig | ListConfig):
        return OmegaConf.to_container(value, resolve=True)
    return value


def _fault(name: str, value: Any, kind: Any) -> str | None:
    """Why a value does not fit its annotation; None where it does."""
    origin, inner = get_origin(kind), get_args(kind)
    if value == _MISSING:
        example = getattr(inner[1], "example", "...") if origin is Annotated else "..."
        return f"{name} is missing; give {name}={example}"
    if origin in (Union, types.UnionType) and types.NoneType in inner:
        fault = None if value is None else _fault(name, value, inner[0])
        return f"{fault}, or null" if fault and get_origin(inner[0]) is Annotated else fault
    if origin is Literal and value not in inner:
        return str(unknown(name, value, inner))
    as_yaml = json.dumps(value) if value is None or isinstance(value, bool) else value
    given = f"{name}={as_yaml}"
    if kind is bool and not isinstance(value, bool):
        return f"{given} must be true or false"
    if origin is Mapping and not isinstance(value, Mapping):
        return f"{given} must be a mapping, such as {name}={{...}}"
    if origin is list and not isinstance(value, list):
        return f"{given} must be a list, such as {name}=[...]"
    if origin in (list, tuple) and isinstance(value, list | tuple):
        return next((fault for one in value if (fault := _fault(name, one, inner[0]))), None)
    if origin is Annotated and (broken := inner[1].broken(value, inner[0])):
        return f"{given} {broken}"
    return None
