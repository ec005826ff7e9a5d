"""The start page: what the study is, its cells as a grid of blocks and moments, and the ways in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from diffusae.errors import UserError
from diffusae.explorer.explored import Explored
from diffusae.explorer.notes import Note
from diffusae.explorer.pages import answer
from diffusae.exploring.cells import OpenCell


def routes(explored: Explored) -> list[Route]:
    """The address of the start page."""

    @cache
    def grid() -> CellGrid:
        return CellGrid.of(explored.cells.values())

    def start(request: Request) -> Response:
        notes, fault = _notes(explored)
        return answer(request, "start.html.j2", grid=grid(), notes=notes, fault=fault)

    return [Route("/", start)]


def _notes(explored: Explored) -> tuple[list[tuple[str, int, Note]], str]:
    """Every note with its cell and latent, bookmarks first; or why there are none."""
    try:
        notes = explored.notes.all()
    except UserError as error:
        return [], str(error)
    listed = [(cell, latent, note) for cell in notes for latent, note in notes[cell].items()]
    return sorted(listed, key=lambda entry: not entry[2].bookmarked), ""


@dataclass(frozen=True)
class ShownCell:
    """A cell of the grid. `tag` is the name of its autoencoder among those of its place; "": it is
    the only one.
    """

    name: str
    conditioning: str
    tag: str
    labelled: bool


@dataclass(frozen=True)
class CellGrid:
    """Cells by block and moment.

    Attributes:
        times: the moments, from t = 1 down.
        rows: block -> the cells at every moment, in the order of `times`.
    """

    times: list[float]
    rows: dict[str, list[list[ShownCell]]]

    @classmethod
    def of(cls, cells: Iterable[OpenCell]) -> CellGrid:
        """The grid of these cells; blocks keep their order."""
        placed = [(cell.place, cell) for cell in cells]
        count = Counter(place for place, _ in placed)
        times = sorted({place.t for place, _ in placed}, reverse=True)
        rows: dict[str, list[list[ShownCell]]] = {}
        for place, cell in placed:
            row = rows.setdefault(place.block, [[] for _ in times])
            tag = cell.settings.cfg.sae.tag if count[place] > 1 else ""
            shown = ShownCell(cell.name, place.conditioning, tag, cell.labelled)
            row[times.index(place.t)].append(shown)
        return cls(times, rows)
