"""The templates of the explorer, and answers that are made from them.

Text of a study may come from a stranger. The templates escape it, and data for a page's script
stands in a JSON element that no text can end.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, FileSystemLoader
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse

from diffusae.explorer.explored import Explored
from diffusae.explorer.security import DOCUMENT_POLICY
from diffusae.report.rendering import environment as report_environment

TEMPLATES = Path(__file__).parent / "templates"
NAVIGATION = {
    "Find": "find/",
    "Look": "look/",
    "Steer": "steer/",
    "Charts": "charts/",
    "Compare": "compare/",
}
"""Title and address of the pages in the header, from left to right."""


@cache
def environment() -> Environment:
    """The templates of the explorer, then those of the report, whose macros pages use."""
    templates = report_environment()
    loaders = [FileSystemLoader(TEMPLATES), templates.loader]
    templates.loader = ChoiceLoader([loader for loader in loaders if loader])
    templates.globals.update(
        records=True,
        navigation=NAVIGATION.items(),
        data_element=data_element,
        policy=DOCUMENT_POLICY,
    )
    return templates


def render(template: str, *, root: str, explored: Explored, **values: Any) -> str:
    """A page as HTML.

    Args:
        template: its file, such as "start.html.j2".
        root: the way from the page to the start page: "" or "../", "../../" and so on. Every link
            in a template begins with it.
        explored: the study that the page is about.
        values: what the template shows. `command` and `file`, where they are given, stand in the
            footer as what is behind the page.
    """
    values = {"command": explored.command, "file": str(explored.directory), "here": ""} | values
    return environment().get_template(template).render(root=root, explored=explored, **values)


def answer(request: Request, template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
    """A page as the answer to a request; see `render`. `root` comes from the address."""
    explored: Explored = request.app.state.explored
    here = request.url.path
    page = render(template, root=root_of(here), explored=explored, here=here, **values)
    return HTMLResponse(page, status)


def root_of(path: str) -> str:
    """The way from a page to the start page: "" from "/", "../../" from "/cells/CELL/"."""
    return "../" * (path.count("/") - 1)


def data_element(name: str, value: Any) -> Markup:
    """Data for a page's script, which reads the JSON text of the element `#name`."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    # No text in it can close the element or open a comment.
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup('<script type="application/json" id="{}">{}</script>').format(name, Markup(text))
