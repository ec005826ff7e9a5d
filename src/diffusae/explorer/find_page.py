"""The pages that list latents: a search over all cells, and the page of one cell.

The values of a page are made apart from the request, so that a static site has the same pages.
There `static/find.js` searches in the place of the server: it reads `find/data.json`, and the
latents of the cells that it needs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from diffusae.concepts.words import BEFORE
from diffusae.explorer.catalogue import OF_LABEL, STATISTICS, Catalogue, CatalogueCell
from diffusae.explorer.explored import Explored, Missing
from diffusae.explorer.pages import answer
from diffusae.explorer.searching import LONGEST, PAGE, Found, Query, find
from diffusae.report.rendering import percent
from diffusae.report.tables import blocks_of, conditionings_of, number, times_of

TITLES: Mapping[str, str] = {
    "cell": "cell", "latent": "latent", "label": "label", "count": "count", "iou": "IoU",
    "share": "share", "frequency": "pictures", "density": "positions", "mean": "mean",
    "cohesion": "cohesion", "stability": "stability",
}  # fmt: skip
"""The headings of the columns, by what rows are sorted by."""
PERCENTS = ("share", "frequency", "density")
"""Statistics that are shown as per cent."""
FIRST_ASCENDS = ("cell", "latent", "label")
"""Columns that a first click sorts from low to high."""
MOST_LABELS = 500
"""Labels that the field for a label suggests."""
OF_CELL = 12
"""Labels and latents on the page of a cell."""


def routes(explored: Explored) -> list[Route]:
    """The addresses of the search and of cells."""

    def find_page(request: Request) -> Response:
        query = Query.of(request.query_params)
        return answer(
            request, "find.html.j2", **find_values(explored, query, exported=explored.static)
        )

    def cell_page(request: Request) -> Response:
        values = cell_values(explored, request.path_params["cell"])
        return answer(request, "cell.html.j2", **values)

    def index(request: Request) -> Response:
        return JSONResponse(index_data(explored.catalogue))

    def latents(request: Request) -> Response:
        explored.cell(request.path_params["cell"])  # a name that is not there is answered as such
        return JSONResponse(cell_data(explored.catalogue, request.path_params["cell"]))

    return [
        Route("/find/", find_page),
        Route("/find/data.json", index),
        Route("/cells/{cell}/", cell_page),
        Route("/cells/{cell}/latents.json", latents),
    ]


@dataclass(frozen=True)
class ShownRow:
    """One latent of a list.

    Attributes:
        address: of its page, from the start page.
        values: statistic -> as text; a dash where it is not known.
        state: "dead", "no labels" or "".
    """

    address: str
    cell: CatalogueCell
    latent: int
    label: str
    values: Mapping[str, str]
    state: str


def address_of(cell: str, latent: int) -> str:
    """The address of a latent's page, from the start page."""
    return f"latents/{quote(cell)}/{latent}/"


def find_values(explored: Explored, query: Query, *, exported: bool = False) -> dict[str, Any]:
    """What the search's page shows for a query.

    Args:
        exported: the page is one of a static site, and its script searches.
    """
    catalogue = explored.catalogue
    found = find(catalogue, query, explored.neighbours)
    if query.page > found.pages:
        raise Missing(f"page={query.page} is beyond the last page, {found.pages}")
    return {
        "query": query,
        "found": found,
        "rows": shown_rows(catalogue, found.page(query.page)),
        "statistics": STATISTICS,
        "columns": _columns(query, bool(found.labels)),
        "options": _options(catalogue),
        "missing": [cell for cell in catalogue.cells if cell.missing],
        "without_label": "?" + urlencode(query.but(label="")),
        "previous": "?" + urlencode(query.but(page=query.page - 1)) if query.page > 1 else "",
        "next": "?" + urlencode(query.but(page=query.page + 1)) if query.page < found.pages else "",
        "longest": LONGEST,
        "exported": exported,
        "file": str(explored.directory / "concepts"),
        "command": "diffusae concepts name=" + explored.study.settings.name,
    }


def _options(catalogue: Catalogue) -> dict[str, list[str]]:
    """What can be chosen in the form."""
    cells = [cell.cell for cell in catalogue.cells]
    return {
        "block": blocks_of(cell.block for cell in cells),
        "t": [f"{t:.2f}" for t in times_of(cell.t for cell in cells)],
        "branch": conditionings_of(cell.conditioning for cell in cells),
        "tag": sorted({cell.tag for cell in cells}),
        "label": list(catalogue.labels[:MOST_LABELS]),
    }


@dataclass(frozen=True)
class Column:
    """A heading: its title, what it means, the address that sorts by it, and how it is sorted now,
    as `aria-sort` says it; "": it is not.
    """

    name: str
    title: str
    about: str
    address: str
    sorted: str


def _columns(query: Query, searched: bool) -> list[Column]:
    columns = []
    for name, title in TITLES.items():
        ascending, descending = query.sort == name, query.sort == f"-{name}"
        first_ascends = name in FIRST_ASCENDS
        rises = descending or (first_ascends and not ascending)
        wanted = name if rises else f"-{name}"
        now = "ascending" if ascending else "descending" if descending else ""
        about = STATISTICS.get(name, "")
        columns.append(Column(name, title, about, "?" + urlencode(query.but(sort=wanted)), now))
    return columns


def shown_rows(catalogue: Catalogue, found: Found) -> list[ShownRow]:
    """The rows of an answer as text."""
    rows = []
    for row, entry in zip(found.rows.tolist(), found.entries.tolist(), strict=True):
        cell = catalogue.cell_of(row)
        values = {name: catalogue.statistics[name][row] for name in catalogue.statistics}
        if entry >= 0:
            values |= {
                "count": catalogue.entry_counts[entry],
                "iou": catalogue.entry_ious[entry],
                "share": catalogue.entry_shares[entry],
            }
        label = catalogue.labels[catalogue.entry_labels[entry]] if entry >= 0 else ""
        state = "dead" if catalogue.dead[row] else "not labelled" if cell.missing else ""
        latent = int(catalogue.latents[row])
        shown = {name: text_of(name, values.get(name)) for name in STATISTICS}
        rows.append(ShownRow(address_of(cell.name, latent), cell, latent, label, shown, state))
    return rows


def text_of(statistic: str, value: Any) -> str:
    """A statistic's value as text; a dash where it is not known."""
    if value is None or math.isnan(value):
        return "–"
    if statistic == "count":
        return str(int(value))
    return percent(float(value)) if statistic in PERCENTS else number(float(value))


def cell_values(explored: Explored, name: str) -> dict[str, Any]:
    """What the page of a cell shows.

    Raises:
        Missing: the study has no such cell.
    """
    explored.cell(name)
    catalogue = explored.catalogue
    cell = catalogue.cell(name)
    found = find(catalogue, Query(cell=name), explored.neighbours)
    moments = [
        other
        for other in catalogue.cells
        if (other.cell.block, other.cell.conditioning, other.tag)
        == (cell.cell.block, cell.cell.conditioning, cell.tag)
    ]
    labelled = int((catalogue.main[cell.rows] >= 0).sum())
    return {
        "cell": cell,
        "facts": {
            "block": cell.cell.block,
            "t": f"{cell.cell.t:.2f}",
            "branch": cell.cell.conditioning,
            "autoencoder": cell.tag,
            "latents": cell.size,
            "with labels": "–" if cell.missing else labelled,
            "dead": "–" if cell.missing else int(catalogue.dead[cell.rows].sum()),
        },
        "moments": moments,
        "labels": _labels_of_cell(catalogue, cell)[:OF_CELL],
        "rows": [] if cell.missing else shown_rows(catalogue, found.first(OF_CELL)),
        "columns": _columns(Query(), False),
        "statistics": STATISTICS,
        "file": str(cell.cell.concepts_directory),
        "command": f"diffusae concepts name={explored.study.settings.name}",
    }


def _labels_of_cell(catalogue: Catalogue, cell: CatalogueCell) -> list[tuple[str, int]]:
    """(label, latents that have it) of a cell, the most frequent first."""
    rows = cell.rows
    own = catalogue.entry_labels[catalogue.starts[rows.start] : catalogue.starts[rows.stop]]
    counts = Counter(catalogue.labels[place] for place in own.tolist())
    return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))


def index_data(catalogue: Catalogue) -> dict[str, Any]:
    """What the browser needs before it searches an exported study: cells, labels and the forms of
    labels. The latents of a cell are in `cell_data`.
    """
    vocabulary = catalogue.vocabulary
    return {
        "page": PAGE,
        "statistics": list(STATISTICS),
        "of_label": list(OF_LABEL),
        "percents": list(PERCENTS),
        "labels": list(catalogue.labels),
        "forms": dict(vocabulary.names()) if vocabulary else {},
        "before": sorted(BEFORE),
        "cells": [
            {
                "name": cell.name,
                "block": cell.cell.block,
                "t": f"{cell.cell.t:.2f}",
                "branch": cell.cell.conditioning,
                "tag": cell.tag,
                "missing": cell.missing,
            }
            for cell in catalogue.cells
        ],
    }


def cell_data(catalogue: Catalogue, name: str) -> dict[str, Any]:
    """The latents of a cell, a list a statistic, and its entries, a list a column; null where a
    value is not known. Labels are places in the list of `index_data`.
    """
    cell = catalogue.cell(name)
    rows, first = cell.rows, cell.first
    entries = slice(int(catalogue.starts[rows.start]), int(catalogue.starts[rows.stop]))
    return {
        "size": cell.size,
        "statistics": {
            statistic: _plain(values[rows].tolist())
            for statistic, values in catalogue.statistics.items()
        },
        "rows": (catalogue.entry_rows[entries] - first).tolist(),
        "labels": catalogue.entry_labels[entries].tolist(),
        "count": catalogue.entry_counts[entries].tolist(),
        "iou": _plain(catalogue.entry_ious[entries].tolist()),
        "share": catalogue.entry_shares[entries].tolist(),
    }


def _plain(values: list[float]) -> list[float | None]:
    """Values as JSON has them: null where one is not finite."""
    return [value if math.isfinite(value) else None for value in values]
