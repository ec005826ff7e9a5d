"""The page that steers: a list of edits and the pictures that they make."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from diffusae.backbone.text_layers import names_text_layer
from diffusae.errors import UserError
from diffusae.explorer.explored import Explored
from diffusae.explorer.look_page import Strip, first_prompt
from diffusae.explorer.pages import answer
from diffusae.interventions.windows import window_at

MOST_CELLS = 32
"""Rows and columns of what is painted. A block has more positions in a large picture; the region of
an edit is stretched to them.
"""


def routes(explored: Explored) -> list[Route]:
    """The addresses of the page, and of the styles that can be pushed everywhere by name: they are
    the annotator's, which is loaded for them.
    """

    def steer(request: Request) -> Response:
        choices = choices_of(explored)
        return answer(
            request,
            "steer.html.j2",
            choices=choices,
            first=Strip.of(explored.cells.values()).first,
            no_model=explored.generation.reason,
            prompt=first_prompt(explored),
        )

    def styles(_: Request) -> Response:
        try:
            known = explored.generation.preparer.styles
        except UserError as error:  # such as an annotator whose weights are not here
            return JSONResponse({"styles": [], "note": str(error)})
        return JSONResponse({"styles": known, "note": ""})

    return [Route("/steer/", steer), Route("/steer/styles.json", styles)]


def choices_of(explored: Explored) -> dict[str, Any]:
    """What an edit can be about, for the page's script.

    grid: [rows, columns] of what is painted; cells: {name: {window}}, of blocks of the denoiser;
    layers: {layer of a text encoder that has an autoencoder: the concepts with prompts}.
    The concepts of a cell come when it is chosen, from `look/labels/CELL.json`.
    """
    cfg = explored.study.settings.cfg
    cells, layers = {}, {}
    for name, cell in explored.cells.items():
        if names_text_layer(cell.block):
            layers[cell.block] = sorted(map(str, cfg.concept_prompts))
        else:
            cells[name] = {"window": window_at(cell.t)}
    return {"grid": painted_grid(cfg.model), "cells": cells, "layers": layers}


def painted_grid(model: Any) -> tuple[int, int]:
    """Rows and columns of what is painted on a model's pictures: its latent entries, at most
    `MOST_CELLS`, in the picture's form; a model that does not say its size has squares.

    Example: a picture of 512 x 768 pixels, height before width, has 21 x 32 cells.
    """
    height, width = model.get("height") or 1, model.get("width") or 1
    entries = max(height, width) // (model.get("latent_scale") or 1)
    longest = min(MOST_CELLS, entries) if entries > 1 else MOST_CELLS
    rows, columns = (max(1, round(longest * side / max(height, width))) for side in (height, width))
    return rows, columns
