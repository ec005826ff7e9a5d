"""The compare page: two cells, or two autoencoders of one cell, or several studies side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any
from urllib.parse import quote

from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from diffusae.errors import UserError, unknown
from diffusae.explorer.compared import (
    Figure,
    Partner,
    SharedLabel,
    Side,
    figures_of,
    label_groups,
    labels_of,
    partners_of,
)
from diffusae.explorer.compared_charts import cosines_chart, figures_chart
from diffusae.explorer.explored import Explored, Missing
from diffusae.explorer.pages import answer
from diffusae.report import charts, vega
from diffusae.report.side_by_side import Member, shown

KEPT = 32
"""Comparisons that are kept, so that their pages come at once."""


@dataclass(frozen=True)
class Comparison:
    """All that the page of two cells shows.

    Attributes:
        labels: a title, the sides that have the labels, the labels.
        partners: of the first cell's latents; empty where directions cannot be compared.
        apart: why they cannot; "" where they can.
        mean_cosine: of all partners; None without any.
        drawings: the charts, each with a title.
        charts: their data.
    """

    sides: tuple[Side, Side]
    figures: list[Figure]
    labels: list[tuple[str, tuple[int, ...], list[SharedLabel]]]
    partners: list[Partner]
    apart: str
    mean_cosine: float | None
    drawings: list[tuple[str, Markup]]
    charts: Markup

    @classmethod
    def of(cls, first: Side, second: Side) -> Comparison:
        """Compare two cells.

        Raises:
            UserError: a file of one of them is damaged.
        """
        dictionaries = [first.dictionary(), second.dictionary()]
        partners, cosines, apart = [], [], ""
        try:
            partners, cosines = partners_of(first, second, dictionaries)
        except UserError as error:  # blocks of another width, or a damaged file
            apart = str(error)
        figures, book = figures_of(first, second), vega.ChartBook()
        return cls(
            (first, second),
            figures,
            label_groups(labels_of(dictionaries)),
            partners,
            apart,
            sum(cosines) / len(cosines) if cosines else None,
            list(_drawn(book, figures, cosines, (first.address, second.address))),
            book.data,
        )


def _drawn(
    book: vega.ChartBook, figures: list[Figure], cosines: list[float], names: tuple[str, str]
) -> Iterator[tuple[str, Markup]]:
    """Every chart with its title."""
    if (chart := figures_chart(figures, names)) is not None:
        alt = f"Every figure of {names[0]} and {names[1]}; the table has the values."
        yield "Figures", book.chart(chart, alt=alt)
    if cosines:
        alt = "How many latents have a partner of which cosine."
        yield "Partners", book.chart(cosines_chart(cosines), alt=alt)


def sides_of(explored: Explored) -> dict[str, Side]:
    """What can be compared, by address: the study's own cells, then those of the other studies."""
    own = {name: Side(name, cell, explored, True) for name, cell in explored.cells.items()}
    others = [
        Side(f"{cell_name}@{name}", cell, other, False)
        for name, other in explored.against.items()
        for cell_name, cell in other.cells.items()
    ]
    return own | {side.address: side for side in others}


def _side(known: Mapping[str, Side], address: str) -> Side:
    if address not in known:
        raise Missing(str(unknown("cell to compare:", address, known)))
    return known[address]


def routes(explored: Explored) -> list[Route]:
    """The page that asks what to compare, that of two cells, and that of all studies."""

    @lru_cache(KEPT)
    def compared(first: str, second: str) -> Comparison:
        known = sides_of(explored)
        return Comparison.of(_side(known, first), _side(known, second))

    def choose(request: Request) -> Response:
        known = sides_of(explored)
        first, second = (request.query_params.get(name, "") for name in ("first", "second"))
        if first or second:
            chosen = [quote(_side(known, name).address) for name in (first, second)]
            return RedirectResponse(f"./{'/'.join(chosen)}/", 303)
        return answer(request, "compare.html.j2", sides=known, comparison=None)

    def cells(request: Request) -> Response:
        comparison = compared(request.path_params["first"], request.path_params["second"])
        return answer(request, "compare.html.j2", sides=sides_of(explored), comparison=comparison)

    def studies(request: Request) -> Response:
        if not explored.against:
            raise Missing(
                f"only one study is open; `{explored.command} against=DIRECTORY` opens another"
            )
        return answer(request, "studies.html.j2", **_studies(explored))

    return [
        Route("/compare/", choose),
        Route("/compare/studies/", studies),
        Route("/compare/{first}/{second}/", cells),
    ]


def _studies(explored: Explored) -> dict[str, Any]:
    """What the page of all studies shows: the report's tables of several, and a curve of each."""
    book, settings = vega.ChartBook(), explored.study.settings
    members = [
        replace(Member.of(settings, str(one.directory), one.directory), page="")
        for one in (explored, *explored.against.values())
    ]
    drawn = [
        (one.name, book.chart(charts.curves(one.composition), alt=f"IoU over t of {one.name}"))
        for one in members
        if one.composition
    ]
    values = shown(members, book)
    return {**values, "drawn": drawn, "charts": book.data}
