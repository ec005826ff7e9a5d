"""Which pages of a study belong to its site of files, and the site itself."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from urllib.parse import quote

import numpy as np
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from diffusae.explorer.app import build_app
from diffusae.explorer.explored import Explored
from diffusae.explorer.pages import answer
from diffusae.explorer.security import Security
from diffusae.explorer.static_links import LEFT_OUT
from diffusae.explorer.static_site import export_site
from diffusae.exploring.cells import OpenCell

log = logging.getLogger(__name__)

WANTED = re.compile(
    r"/(find|charts|compare|look|steer)/|/cells/[^/]+/|/(compare/studies|look/pictures/[^/]+)/"
    r"|/(thumbnails|pictures|maps)/.+|/evaluation/.+|/.+/(run|results)\.json|/static/[^/]+"
)
"""The addresses that a site holds where a page links to them. Pages of latents and of two cells are
chosen one by one.
"""
DATA = ("/find/data.json", "/notes/")
"""What the scripts of pages load."""


def export_study(explored: Explored, directory: Path, *, most: int) -> None:
    """Write the site of a study.

    Args:
        explored: made with `static`.
        directory: empty, absent, or an earlier export.
        most: pages of latents.

    Raises:
        UserError: the directory holds something else, cannot be written, or its disk is too small.
    """
    app = build_app(explored, Security("127.0.0.1"))
    app.router.routes.append(Route(LEFT_OUT, _left_out))
    catalogue, chosen = explored.catalogue, chosen_latents(explored, most)
    made = export_site(
        app,
        directory,
        wanted=lambda address: WANTED.fullmatch(address) is not None,
        latents=chosen,
        total_latents=len(catalogue),
        further=[*DATA, *comparisons(explored)],
    )
    if made.left_out:
        log.info(
            "%d of %d latents have no page: export_latents=%d; labelled ones come first",
            made.left_out, len(catalogue), most,
        )  # fmt: skip
    log.info("the site: %s, %d files, %.0f MB", directory, made.files, made.size / 1e6)


def _left_out(request: Request) -> Response:
    return answer(request, "left_out.html.j2")


def chosen_latents(explored: Explored, most: int) -> list[str]:
    """The addresses of the latents that have a page: all where there are at most `most`, else those
    with a note, then those with a label, by the pictures of their most frequent one.
    """
    catalogue = explored.catalogue
    if len(catalogue) <= most:
        rows = np.arange(len(catalogue))
    else:
        # Entries are sorted by row and falling count, so the first of a row has its largest.
        labelled, first = np.unique(catalogue.entry_rows, return_index=True)
        rows = labelled[np.argsort(-catalogue.entry_counts[first], kind="stable")]
    cells = {cell.name: cell for cell in catalogue.cells}
    ordered = [cell for cell in catalogue.cells for _ in range(cell.size)]
    named = [(ordered[row].name, int(catalogue.latents[row])) for row in rows]
    noted = [pair for pair in explored.notes.latents() if pair[0] in cells]
    chosen = dict.fromkeys([*noted, *named])
    return [f"/latents/{quote(cell)}/{latent}/" for cell, latent in list(chosen)[:most]]


def comparisons(explored: Explored) -> Iterator[str]:
    """The addresses of the pages of two cells that differ in one thing: block, t, branch or tag."""
    for first, second in combinations(explored.cells.values(), 2):
        if sum(a != b for a, b in zip(_place(first), _place(second), strict=True)) == 1:
            yield f"/compare/{quote(first.name)}/{quote(second.name)}/"


def _place(cell: OpenCell) -> tuple[object, ...]:
    return cell.block, cell.t, cell.conditioning, cell.settings.cfg.sae.tag
