"""The start page: what the study is, its cells as a grid of blocks and moments, and the ways in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

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

    def start(request: Request) -> Response:
        notes, fault = _notes(explored)
        grid = CellGrid.of(explored.cells.values())
        return answer(request, "start.html.j2", grid=grid, notes=notes, fault=fault)

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
class CellGrid:
    """Cells by block and moment.

    Attributes:
        times: the moments, from t = 1 down.
        rows: block -> the cells at every moment, in the order of `times`.
    """

    times: list[float]
    rows: dict[str, list[list[OpenCell]]]

    @classmethod
    def of(cls, cells: Iterable[OpenCell]) -> CellGrid:
        """The grid of these cells; blocks keep their order."""
        cells = list(cells)
        times = sorted({cell.t for cell in cells}, reverse=True)
        rows = {
            block: [[cell for cell in cells if (cell.block, cell.t) == (block, t)] for t in times]
            for block in dict.fromkeys(cell.block for cell in cells)
        }
        return cls(times, rows)
