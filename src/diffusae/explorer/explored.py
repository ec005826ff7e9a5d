"""What is explored: an open study, its cells by name, and the parts that pages share."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from threading import RLock
from typing import Any, Generic, TypeVar

from diffusae.errors import UserError, unknown
from diffusae.explorer.collected import CollectedPictures
from diffusae.explorer.generation import Generation
from diffusae.exploring.cells import OpenCell
from diffusae.exploring.opened import OpenStudy

T = TypeVar("T")


class Missing(UserError):
    """What an address names does not exist; over HTTP the status is 404."""


class shared(Generic[T]):
    """A property of `Explored` that is made at its first use and once: requests that come meanwhile
    wait for it. What fails is tried again at the next use.
    """

    def __init__(self, make: Callable[[Any], T]) -> None:
        self._make, self._name, self.__doc__ = make, make.__name__, make.__doc__

    def __get__(self, owner: Any, kind: type | None = None) -> T:
        with owner.lock:
            if self._name not in vars(owner):
                vars(owner)[self._name] = self._make(owner)
        return vars(owner)[self._name]


class Explored:
    """A study that is explored. Nothing is written into its directory but the notes.

    Args:
        study: the open study.
    """

    def __init__(self, study: OpenStudy) -> None:
        self.study = study
        self.lock = RLock()

    @property
    def directory(self) -> Path:
        """Where the study lies."""
        return self.study.directory

    @property
    def name(self) -> str:
        """The name of the study."""
        return self.directory.name or self.study.settings.name

    @property
    def model(self) -> str:
        """The name of the model that is studied."""
        return self.study.settings.cfg.model.name

    @property
    def command(self) -> str:
        """The command that opens this study, for a shell."""
        return f"diffusae explore {shlex.quote(str(self.directory))}"

    @shared
    def cells(self) -> dict[str, OpenCell]:
        """Every cell with a trained autoencoder, by its name: block by block in the study's order,
        from t = 1 down.
        """
        blocks = self.study.blocks
        order = {block: place for place, block in enumerate(blocks)}
        cells = sorted(
            self.study.cells,
            key=lambda cell: (
                order.get(cell.block, len(order)),
                cell.block,
                -cell.t,
                cell.conditioning,
                cell.name,
            ),
        )
        return {cell.name: cell for cell in cells}

    def cell(self, name: str) -> OpenCell:
        """The cell of a name that came from the browser.

        Raises:
            Missing: the study has no such cell.
        """
        if name not in self.cells:
            raise Missing(str(unknown("cell of this study:", name, self.cells)))
        return self.cells[name]

    @shared
    def generation(self) -> Generation:
        """The model, which is loaded when it is first needed."""
        return Generation(self.study, self.cells)

    @shared
    def collected(self) -> CollectedPictures:
        """The list of collected pictures."""
        return CollectedPictures(self.study.settings)
