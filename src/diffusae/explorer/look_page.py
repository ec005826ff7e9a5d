"""The page that looks into a picture: which latents are active where, at every cell."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from diffusae.errors import UserError
from diffusae.explorer.collected import as_json
from diffusae.explorer.explored import Explored, Missing
from diffusae.explorer.pages import answer
from diffusae.exploring.cells import OpenCell

MOST_PICTURES = 48
"""Collected pictures that are listed at a time."""


def routes(explored: Explored) -> list[Route]:
    """The addresses of the page, of the list of collected pictures, and of what latents are called:
    by their labels, and by the user's own names.
    """

    def look(request: Request) -> Response:
        return _answer(request, explored, listed=_listed(explored), prompt=first_prompt(explored))

    def one(request: Request) -> Response:
        image_id = request.path_params["image"]
        if (picture := explored.collected.find(image_id)) is None:
            raise Missing(
                f"the study keeps no grids of a picture {image_id[:80]!r}; choose one of its list"
            )
        return _answer(request, explored, collected=picture)

    def pictures(request: Request) -> Response:
        query, start = request.query_params.get("q", ""), request.query_params.get("from", "0")
        if not start.isdecimal() or len(start) > 9:
            raise UserError(f"from={start[:20]!r} must be a whole number from 0 on")
        return JSONResponse(as_json(*explored.collected.page(query, int(start), MOST_PICTURES)))

    def labels(request: Request) -> Response:
        name = explored.cell(request.path_params["cell"]).name
        # The cell of the edits: what it loads is kept for a while only.
        labels = labels_of(explored.generation.preparer.cell(name))
        return JSONResponse({"labels": labels, "names": _own_names(explored, name)})

    return [
        Route("/look/", look),
        Route("/look/pictures.json", pictures),
        Route("/look/pictures/{image}/", one),
        Route("/look/labels/{cell}.json", labels),
    ]


def _answer(request: Request, explored: Explored, **values: Any) -> Response:
    """The page: `collected` is the picture that it shows, `listed` those that it offers."""
    given = {"collected": None, "listed": None, "prompt": ""} | values
    strip, no_model = Strip.of(explored.cells.values()), explored.generation.reason
    return answer(request, "look.html.j2", strip=strip, no_model=no_model, **given)


def first_prompt(explored: Explored) -> str:
    """The prompt that a form begins with: that of the first collected picture."""
    listed = _listed(explored)["pictures"]
    return listed[0].prompt if listed else ""


def _listed(explored: Explored) -> dict[str, Any]:
    """The first collected pictures, or why there are none."""
    try:
        pictures, following = explored.collected.page("", 0, MOST_PICTURES)
    except UserError as error:
        return {"pictures": [], "next": None, "why_none": str(error)}
    return {"pictures": pictures, "next": following, "why_none": "This study keeps no pictures."}


@dataclass(frozen=True)
class StripRow:
    """The cells of one block, branch and tag, one a moment; None where there is none."""

    name: str
    place: int
    cells: list[OpenCell | None]


@dataclass(frozen=True)
class Strip:
    """All cells whose positions lie in a picture.

    Attributes:
        times: the moments, from t = 1 down.
        rows: by block, branch and tag.
        first: the name of the cell that is shown first; None: there is no cell.
    """

    times: list[float]
    rows: list[StripRow]
    first: str | None

    @classmethod
    def of(cls, cells: Iterable[OpenCell]) -> Strip:
        """The strip of these cells; tokens of a text have no positions in a picture."""
        shown = [cell for cell in cells if cell.in_picture]
        times = sorted({cell.t for cell in shown}, reverse=True)
        at: dict[str, dict[float, OpenCell]] = {}
        for cell in shown:
            at.setdefault(_row_name(cell, shown), {})[cell.t] = cell
        rows = [
            StripRow(name, place, [of_row.get(t) for t in times])
            for place, (name, of_row) in enumerate(at.items())
        ]
        first = next((cell for cell in shown if cell.labelled), shown[0] if shown else None)
        return cls(times, rows, None if first is None else first.name)


def _row_name(cell: OpenCell, among: list[OpenCell]) -> str:
    """Block and branch, and the tag where the place has several autoencoders."""
    name = f"{cell.block} {cell.conditioning}"
    several = sum(other.place == cell.place for other in among) > 1
    return f"{name} {cell.settings.cfg.sae.tag}" if several else name


def _own_names(explored: Explored, cell: str) -> dict[str, str]:
    """Latent -> the user's name for it. The start page tells of damaged notes; here they lack."""
    try:
        noted = explored.notes.all().get(cell, {})
    except UserError:
        return {}
    return {str(latent): note.name for latent, note in noted.items() if note.name}


def labels_of(cell: OpenCell) -> dict[str, list[str]]:
    """Latent -> its labels, the most frequent first, of those that have one."""
    labels: dict[str, list[str]] = {}
    table: Any = cell.dictionary.table if cell.labelled else {"latent": [], "label": []}
    for latent, label in zip(table["latent"], table["label"], strict=True):
        labels.setdefault(str(latent), []).append(label)
    return labels
