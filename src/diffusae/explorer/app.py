"""The application: all routes in one list, the checks around them, and answers to what fails."""

from __future__ import annotations

import logging
from collections.abc import Callable

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from diffusae.errors import UserError
from diffusae.explorer import (
    charts_page,
    compare_page,
    find_page,
    images,
    jobs_api,
    latent_page,
    look_page,
    notes_api,
    records_page,
    start_page,
    steer_page,
)
from diffusae.explorer.assets import asset, media_type
from diffusae.explorer.explored import Explored, Missing
from diffusae.explorer.pages import answer
from diffusae.explorer.security import HEADERS, Guard, Security, wants_page
from diffusae.files import digest_of

PAGES: list[Callable[[Explored], list[Route]]] = [
    start_page.routes,
    find_page.routes,
    latent_page.routes,
    images.routes,
    look_page.routes,
    steer_page.routes,
    jobs_api.routes,
    notes_api.routes,
    charts_page.routes,
    compare_page.routes,
    records_page.routes,
]
"""The routes of every page. A page with an entry in `pages.NAVIGATION` stands in the header."""

log = logging.getLogger(__name__)


def build_app(explored: Explored, security: Security) -> Starlette:
    """The explorer of a study as an ASGI application."""
    app = Starlette(
        routes=[
            Route("/static/{name}", _static),
            *(route for routes in PAGES for route in routes(explored)),
        ],
        middleware=[Middleware(Guard, security=security)],
        exception_handlers={HTTPException: _refused, UserError: _user_error, Exception: _own_fault},
    )
    app.state.explored = explored
    return app


def _static(request: Request) -> Response:
    name = request.path_params["name"]
    content = asset(name)
    headers = {"cache-control": "no-cache", "etag": f'"{digest_of(content)[:32]}"'}
    if request.headers.get("if-none-match") == headers["etag"]:
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=media_type(name), headers=headers)


def _user_error(request: Request, error: Exception) -> Response:
    return _failed(request, 404 if isinstance(error, Missing) else 400, str(error))


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    detail = error.detail
    if error.status_code == 404:
        detail = f"there is no page {request.url.path}"
    return _failed(request, error.status_code, detail)


def _own_fault(request: Request, error: Exception) -> Response:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    text = "the explorer made a mistake; the terminal where it runs shows where"
    failed = _failed(request, 500, text)
    failed.headers.update(HEADERS)  # Starlette answers it outside of the guard
    return failed


def _failed(request: Request, status: int, message: str) -> Response:
    """A page for a browser, JSON for a program, with the same text."""
    if not wants_page(request.headers):
        return JSONResponse({"error": message}, status)
    return answer(request, "error.html.j2", status=status, message=message, status_code=status)
