"""Which pages of a study belong to its site of files, and the site itself."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from itertools import combinations
from pathlib import Path
from urllib.parse import quote, unquote

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from diffusae.errors import UserError
from diffusae.explorer.app import build_app
from diffusae.explorer.explored import Explored
from diffusae.explorer.pages import answer
from diffusae.explorer.security import Security
from diffusae.explorer.static_links import LEFT_OUT
from diffusae.explorer.static_site import export_site
from diffusae.exploring.cells import OpenCell

log = logging.getLogger(__name__)

WANTED = re.compile(
    r"/(find|charts|compare|look|steer)/|/cells/[^/]+/|/compare/studies/"
    r"|/(thumbnails|pictures|maps)/.+|/evaluation/.+|/.+/(run|results)\.json|/static/[^/]+"
)
"""The addresses that a site holds where a page links to them. Pages of latents, of pictures and of
two cells are chosen one by one.
"""
NO_MODEL = (
    "This is a read-only copy of a study, without its model. To make pictures, run diffusae explore"
    " where the study is."
)


def export_study(
    explored: Explored, directory: Path, *, most_latents: int, most_pictures: int
) -> None:
    """Write the site of a study.

    Args:
        explored: made with `static`.
        directory: empty, absent, or an earlier export.
        most_latents: pages of latents.
        most_pictures: collected pictures whose latents can be looked at, position by position.

    Raises:
        UserError: the directory holds something else, cannot be written, or its disk is too small.
    """
    explored.generation.reason = NO_MODEL
    app = build_app(explored, Security("127.0.0.1"))
    total, chosen = len(explored.catalogue), chosen_latents(explored, most_latents)
    listed, pages = by_cell(chosen), set(chosen)
    app.router.routes += [
        Route(LEFT_OUT, _left_out),
        Route("/latents/pages.json", lambda _: JSONResponse(listed)),
    ]
    made = export_site(
        app,
        directory,
        wanted=lambda one: bool(WANTED.fullmatch(one)) or one.removesuffix("activity/") in pages,
        latents=chosen,
        total_latents=total,
        further=[*_data(explored), *_pictures(explored, most_pictures), *comparisons(explored)],
        renamed=_paths(explored),
    )
    if made.left_out:
        log.info(
            "%d of %d latents have no page: export_latents=%d; labelled ones come first",
            made.left_out, total, most_latents,
        )  # fmt: skip
    log.info("the site: %s, %d files, %.0f MB", directory, made.files, made.size / 1e6)


def _data(explored: Explored) -> Iterator[str]:
    """What the scripts of pages load."""
    yield from ("/find/data.json", "/latents/pages.json", "/notes/")
    yield from ("/look/pictures.json", "/steer/styles.json")
    for cell in map(quote, explored.cells):
        yield from (f"/cells/{cell}/latents.json", f"/look/labels/{cell}.json")


def _pictures(explored: Explored, most: int) -> Iterator[str]:
    """The pages of the first collected pictures, and the codes that their scripts load."""
    try:
        pictures, _ = explored.collected.page("", 0, most)
    except UserError as error:  # the collection was removed, or is damaged
        log.warning("the site has no collected pictures: %s", error)
        return
    for picture in pictures:
        page = f"/look/pictures/{quote(picture.image_id)}/"
        yield page
        yield from (f"{page}cells/{quote(cell)}.json" for cell in explored.cells)


def _paths(explored: Explored) -> dict[str, str]:
    """Paths of this machine, which are nobody else's business, and what stands there instead."""
    model = explored.study.settings.cfg.model
    manifest = explored.source.manifest
    sources = [str(model.source), str(manifest.header.get("source")) if manifest else ""]
    paths = {
        str(explored.directory.resolve()): explored.name,
        str(explored.directory): explored.name,
    }
    paths |= {source: str(model.name) for source in sources}
    return {path: name for path, name in paths.items() if Path(path).is_absolute()}


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
    notes = explored.notes.all()
    noted = [(cell, latent) for cell in notes if cell in cells for latent in notes[cell]]
    chosen = dict.fromkeys([*noted, *named])
    return [f"/latents/{quote(cell)}/{latent}/" for cell, latent in list(chosen)[:most]]


def by_cell(addresses: Iterable[str]) -> dict[str, list[int]]:
    """The latents of these addresses, cell by cell."""
    listed: dict[str, list[int]] = {}
    for address in addresses:
        _, _, cell, latent, _ = address.split("/")
        listed.setdefault(unquote(cell), []).append(int(latent))
    return listed


def comparisons(explored: Explored) -> Iterator[str]:
    """The addresses of the pages of two cells that differ in one thing: block, t, branch or tag."""
    for first, second in combinations(explored.cells.values(), 2):
        if sum(a != b for a, b in zip(_place(first), _place(second), strict=True)) == 1:
            yield f"/compare/{quote(first.name)}/{quote(second.name)}/"


def _place(cell: OpenCell) -> tuple[object, ...]:
    return cell.block, cell.t, cell.conditioning, cell.settings.cfg.sae.tag
