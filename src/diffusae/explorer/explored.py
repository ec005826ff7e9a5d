"""What is explored: an open study, its cells by name, and the parts that pages share."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from threading import RLock
from typing import Any, Generic, TypeVar

from diffusae.errors import UserError, unknown
from diffusae.explorer.activity import Activity
from diffusae.explorer.catalogue import Catalogue
from diffusae.explorer.collected import CollectedPictures
from diffusae.explorer.directions import Directions
from diffusae.explorer.generation import Generation
from diffusae.explorer.kept import Kept
from diffusae.explorer.neighbours import Neighbours
from diffusae.explorer.notes import Notes
from diffusae.explorer.pictures import Pictures
from diffusae.explorer.top_pictures import TopPictures
from diffusae.exploring.cells import OpenCell
from diffusae.exploring.opened import OpenStudy
from diffusae.report.gathering import Source, in_order
from diffusae.report.study import FinishedStudy
from diffusae.runs.survey import runs_below

T = TypeVar("T")


KEPT_LATENTS = 256
"""Latents whose partners and histograms stay in memory, some 20 kB a latent."""


class Missing(UserError):
    """What an address names does not exist; over HTTP the status is 404."""


class shared(Generic[T]):
    """A property of `Explored` that is made at its first use and once: requests that come meanwhile
    wait for it. What fails is tried again at the next use.
    """

    def __init__(self, make: Callable[[Any], T]) -> None:
        self._make, self._name, self.__doc__ = make, make.__name__, make.__doc__

    def __get__(self, owner: Any, kind: type | None = None) -> T:
        with vars(owner).setdefault(f"the lock of {self._name}", RLock()):
            if self._name not in vars(owner):
                vars(owner)[self._name] = self._make(owner)
        return vars(owner)[self._name]


class Explored:
    """A study that is explored. Nothing is written into its directory but the notes.

    Args:
        study: the open study.
        against: other studies that it can be compared with.
        static: whether the pages are written to files, where nothing answers any more.
    """

    def __init__(
        self, study: OpenStudy, against: Sequence[OpenStudy] = (), *, static: bool = False
    ) -> None:
        self.study, self.static = study, static
        self.against = _by_name([Explored(other) for other in against], self.name)

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

    @shared
    def source(self) -> Source:
        """The finished runs of the study, as the report reads them."""
        from diffusae.metrics.registry import metrics  # these take seconds to import

        runs = in_order(runs_below(self.directory))
        return Source(self.study.settings, runs, metrics())

    @property
    def left_out(self) -> list[str]:
        """Why runs are left out, one text a run."""
        return [run.left_out for run in self.source.runs if run.fault is not None]

    @shared
    def report(self) -> FinishedStudy:
        """All that the charts show."""
        from diffusae.report.page import CHARTS, page_of  # charts take seconds to import

        return page_of(self.source, sections=CHARTS)

    def cell(self, name: str) -> OpenCell:
        """The cell of a name that came from the browser.

        Raises:
            Missing: the study has no such cell.
        """
        if name not in self.cells:
            raise Missing(str(unknown("cell of this study:", name, self.cells)))
        return self.cells[name]

    def latent(self, cell: str, index: object) -> int:
        """The index of a latent, which came from the browser as a number or as text.

        Raises:
            Missing: the study has no such cell, or its autoencoder no such latent.
        """
        self.cell(cell)
        d_sae = self.catalogue.cell(cell).size
        number = int(index) if isinstance(index, int | str) and str(index).isdecimal() else -1
        if not 0 <= number < d_sae:
            raise Missing(
                f"{cell} has no latent {str(index)[:20]!r}; it has latents 0 to {d_sae - 1}"
            )
        return number

    @shared
    def notes(self) -> Notes:
        """The user's bookmarks, names and notes of latents."""
        return Notes.of_study(self.directory)

    @shared
    def generation(self) -> Generation:
        """The model, which is loaded when it is first needed. `reason` says why there is none."""
        return Generation(self.study, self.cells)

    @shared
    def collected(self) -> CollectedPictures:
        """The list of collected pictures."""
        return CollectedPictures(self.study.settings.held_out.activations)

    @shared
    def catalogue(self) -> Catalogue:
        """All latents of all cells."""
        return Catalogue.of(list(self.cells.values()))

    def warm(self) -> None:
        """Read the catalogue before the first page asks for it; a page says what is wrong."""
        with suppress(UserError):
            _ = self.catalogue

    @shared
    def neighbours(self) -> Neighbours:
        """The labels nearest to a word."""
        return Neighbours(self.study.settings, self.catalogue)

    @shared
    def pictures(self) -> Pictures:
        """The collected pictures and their thumbnails."""
        return Pictures(self.study.settings)

    @shared
    def top_pictures(self) -> TopPictures:
        """The top pictures of every latent."""
        return TopPictures()

    @shared
    def directions(self) -> Directions:
        """The directions of every latent."""
        return Directions()

    @shared
    def activity(self) -> Activity:
        """Where and how strongly latents are active."""
        return Activity(self.pictures)

    @shared
    def empty_prompts(self) -> dict[tuple[str, int], str]:
        """The generations that pushed a latent (cell, index) into an empty prompt: their ids."""
        return {}

    @shared
    def computed(self) -> Kept[Any]:
        """What was computed for the pages of the last latents."""
        return Kept(KEPT_LATENTS, lambda _: 1)


def _by_name(others: Sequence[Explored], own: str) -> dict[str, Explored]:
    """Other studies by their names; one that is taken gets a number."""
    named: dict[str, Explored] = {}
    for other in others:
        names = (f"{other.name}{n if n > 1 else ''}" for n in count(1))
        named[next(name for name in names if name not in (own, *named))] = other
    return named
