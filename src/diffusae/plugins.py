"""Plug-ins: annotators, embeddings, sparsities, metrics and model adapters of a user's own package.

A package offers parts in one of two ways, and both say "name": "module:attribute":
- installed, by entry points of the groups `diffusae.annotators`, `diffusae.embeddings`, ...;
- as any module that Python finds, which the user's own configuration names (plugins=[mypackage])
  and which holds DIFFUSAE = {"annotators": {"mine": "mypackage.annotators:Mine"}}.

A part is imported when it is asked for. No file that diffusae reads can name a package: only the
command and `diffusae.open` call `use`, with the user's own configuration.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from diffusae.errors import UserError, unknown

GROUPS = ("annotators", "embeddings", "sparsities", "metrics", "models")
DECLARED = "DIFFUSAE"
"""What a module that `plugins` names holds: {group: {name: "module:attribute"}}."""

_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_used: dict[str, tuple[Part, ...]] = {}


class Part(EntryPoint):
    """One part that a package offers: `name`, `value` ("module:attribute") and `group`."""

    @property
    def package(self) -> str:
        """The package that it comes from."""
        return self.module.partition(".")[0]

    @property
    def target(self) -> str:
        """The class as a configuration's `_target_` names it."""
        return self.value.replace(":", ".")

    def load(self) -> Any:
        """Import the part; `UserError` with the package's name where that fails."""
        try:
            return super().load()
        except Exception as error:  # a package may fail in any way
            raise UserError(
                f"the plug-in {self.package} cannot load {self.value}, its {self.group}:"
                f" {type(error).__name__}: {error}; mend the package, or leave it out"
            ) from error

    def wrong(self, kind: str) -> UserError:
        """The error for a part that is not of the kind that its group wants."""
        return UserError(
            f"the plug-in {self.package} offers {self.value} among {self.group}, and it is no"
            f" {kind}; docs/extending.md shows one"
        )


def use(packages: Iterable[str]) -> None:
    """Take the parts of these packages too, which the user's own configuration names; a second time
    changes nothing.

    Raises:
        UserError: a package that cannot be imported, or does not say what it offers.
    """
    if isinstance(packages, str):
        raise UserError(f"plugins={packages} must be a list of packages: plugins=[{packages}]")
    for package in packages:
        if not isinstance(package, str) or package not in _used:
            _used[package] = _declared(package)


def parts(group: str) -> list[Part]:
    """What packages offer of a group, installed ones first; nothing is imported."""
    used = [part for parts in _used.values() for part in parts if part.group == group]
    return list(dict.fromkeys([*(part for part in _installed() if part.group == group), *used]))


def part_of(group: str, target: object) -> Part | None:
    """The part whose class a configuration names so; None where no package offers it."""
    return next((part for part in parts(group) if part.target == target), None)


def options() -> dict[str, Path]:
    """{package: its folder `conf` with options of groups}, of every package that has one."""
    folders: dict[str, Path] = {}
    for package in dict.fromkeys(part.package for group in GROUPS for part in parts(group)):
        spec = find_spec(package)  # of a package at the top, which is not imported for it
        for place in (spec.submodule_search_locations or []) if spec is not None else []:
            if (Path(place) / "conf").is_dir():
                folders[package] = Path(place) / "conf"
    return folders


@cache
def _installed() -> tuple[Part, ...]:
    offered = entry_points()  # all at once: looking for a group reads the files of every package
    return tuple(
        Part(point.name, point.value, group)
        for group in GROUPS
        for point in offered.select(group=f"diffusae.{group}")
    )


def _declared(package: Any) -> tuple[Part, ...]:
    if not isinstance(package, str) or not _MODULE.fullmatch(package):
        raise UserError(f"plugins: {package!r} is no package's name; write plugins=[mypackage]")
    try:
        module = importlib.import_module(package)
    except Exception as error:  # a package may fail in any way
        raise UserError(
            f"the plug-in {package} cannot be imported: {type(error).__name__}: {error}; install"
            " it, put its folder on PYTHONPATH, or leave it out of plugins"
        ) from error
    declared = getattr(module, DECLARED, None)
    if not isinstance(declared, Mapping):
        raise UserError(
            f"the plug-in {package} does not say what it offers; it needs {DECLARED} ="
            ' {"annotators": {"mine": "' + package + '.module:Class"}}'
        )
    taken: list[Part] = []
    for group, offered in declared.items():
        if group not in GROUPS:
            raise unknown(f"group of the plug-in {package}:", group, GROUPS)
        for name, value in dict(offered).items():
            if not isinstance(value, str) or value.count(":") != 1:
                raise UserError(
                    f"the plug-in {package}: {group}.{name}={value!r} must be a text"
                    ' "module:attribute"'
                )
            taken.append(Part(name, value, group))
    return tuple(taken)
