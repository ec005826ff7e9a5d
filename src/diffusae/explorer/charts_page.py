"""The charts page: the report's own sections in the explorer's frame."""

from __future__ import annotations

from functools import cache

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from diffusae.evaluation.result import Result
from diffusae.explorer.explored import Explored
from diffusae.explorer.pages import answer, environment
from diffusae.explorer.records_page import Behind
from diffusae.report.commands import command
from diffusae.report.page import CHARTS
from diffusae.report.rendering import Rendered, rendered
from diffusae.report.study import FinishedStudy


def routes(explored: Explored) -> list[Route]:
    """The address of the charts."""

    @cache
    def parts() -> Rendered:  # the study is read once
        return rendered(explored.report, CHARTS, environment())

    def charts(request: Request) -> Response:
        behind = Behind.of(explored)
        return answer(
            request,
            "charts.html.j2",
            parts=parts(),
            behind={name: behind.of_rows(rows) for name, rows in by_section(explored.report)},
            left_out=explored.left_out,
            command=command("report", {"name": explored.name}),
            file=str(explored.directory / "evaluation"),
        )

    return [Route("/charts/", charts)]


def by_section(study: FinishedStudy) -> list[tuple[str, list[Result]]]:
    """The rows of results that every section is made of, section by section."""
    rows: dict[str, list[Result]] = {section.name: [] for section in CHARTS}
    for row in study.results:
        rows[study.shows.section(row.metric)].append(row)
    rows["emergence"] += study.emergence
    rows["interventions"] += study.three_stages
    return [(name, members) for name, members in rows.items() if members]
