"""The addresses of notes: all of them, and the change of one."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from diffusae.errors import UserError
from diffusae.explorer.explored import Explored
from diffusae.explorer.notes import Changed
from diffusae.parsing import json_value

KEYS = {"cell", "latent", "field", "value", "was"}


def routes(explored: Explored) -> list[Route]:
    """GET gives all notes, PUT changes one field of one latent's note."""

    def all_notes(_: Request) -> Response:
        notes = explored.notes
        latents = {
            cell: {str(latent): asdict(note) for latent, note in of_cell.items()}
            for cell, of_cell in notes.all().items()
        }
        return JSONResponse({"file": str(notes.path), "latents": latents})

    async def change(request: Request) -> Response:
        wanted = _wanted(await request.body())
        try:
            note = await run_in_threadpool(_change, explored, wanted)
        except Changed as error:
            return JSONResponse({"error": str(error), "note": asdict(error.now)}, 409)
        return JSONResponse({"note": asdict(note), "file": str(explored.notes.path)})

    return [Route("/notes/", all_notes), Route("/notes/", change, methods=["PUT"])]


def _wanted(body: bytes) -> dict[str, Any]:
    try:
        wanted = json_value(body)
    except UserError as error:
        raise UserError(f"the body of the request is damaged: {error}") from None
    if not isinstance(wanted, dict) or wanted.keys() != KEYS:
        raise UserError(f"a change of a note is a JSON object with {', '.join(sorted(KEYS))}")
    return wanted


def _change(explored: Explored, wanted: dict[str, Any]) -> Any:
    cell, field = str(wanted["cell"]), str(wanted["field"])
    latent = explored.latent(cell, wanted["latent"])
    return explored.notes.change(cell, latent, field, wanted["value"], was=wanted["was"])
