"""The addresses of collected pictures, their thumbnails, and maps of latents over them.

A picture is named by its id, which is looked up in the collection's manifest and shards. No path
of the browser is opened.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from diffusae.concepts.montage import heat_colours
from diffusae.explorer.activity import SHOWN
from diffusae.explorer.explored import Explored, Missing

KEEP = {"cache-control": "private, max-age=3600"}


def routes(explored: Explored) -> list[Route]:
    """The addresses of images."""

    def thumbnail(request: Request) -> Response:
        data = explored.pictures.thumbnail(request.path_params["image"])
        return _image(data, "image/webp", request)

    def picture(request: Request) -> Response:
        return _image(explored.pictures.png(request.path_params["image"]), "image/png", request)

    def heat(request: Request) -> Response:
        names = request.path_params
        latent = explored.latent(names["cell"], names["latent"])
        data = map_png(explored, names["cell"], latent, names["image"])
        return _image(data, "image/png", request)

    return [
        Route("/thumbnails/{image}.webp", thumbnail),
        Route("/pictures/{image}.png", picture),
        Route("/maps/{cell}/{latent}/{image}.png", heat),
    ]


def map_png(explored: Explored, name: str, latent: int, image_id: str) -> bytes | None:
    """A latent's map on one of its top pictures as a PNG of its grid: from 0 (dark) to the highest
    value in all of the shown top pictures (bright). None: the picture is none of them.

    Raises:
        UserError: neither the gallery nor the collection has what is needed.
    """
    cell = explored.catalogue.cell(name)
    shown = [one for one, _ in explored.top_pictures.of(cell, latent)[:SHOWN]]
    if image_id not in shown:
        return None
    maps = explored.activity.maps(cell, latent, shown)
    values = maps.maps[shown.index(image_id)].numpy().astype(np.float64)
    buffer = io.BytesIO()
    Image.fromarray(heat_colours(values, low=0.0, high=maps.high)).save(buffer, "PNG")
    return buffer.getvalue()


def _image(data: bytes | None, kind: str, request: Request) -> Response:
    if data is None:
        raise Missing(f"there is no picture at {request.url.path}")
    return Response(data, media_type=kind, headers=KEEP)
