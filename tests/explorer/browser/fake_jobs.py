"""The API of generations without a model: pictures of one colour, and codes by hand.

Latent 3 is active everywhere, and latent 7 at the first position only.
"""

import asyncio
import io
import json
from collections.abc import AsyncIterator

from PIL import Image
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

GRIDS = {"down": (16, 16), "mid": (8, 8)}
COLOURS = {"before": (200, 60, 40), "after": (40, 120, 200), "random": (120, 120, 120)}
STEPS = 6


class FakeJobs:
    """Answers as the explorer does; `orders` has what was asked for, `cancelled` the ids."""

    def __init__(self) -> None:
        self.orders: list[dict] = []
        self.cancelled: list[str] = []
        self.pause = 0.02

    def routes(self) -> list[Route]:
        return [
            Route("/steer/styles.json", self.styles),
            Route("/api/jobs", self.start, methods=["POST"]),
            Route("/api/jobs/{id}", self.job, methods=["GET", "DELETE"]),
            Route("/api/jobs/{id}/events", self.events),
            Route("/api/jobs/{id}/pictures/{name}.png", self.picture),
            Route("/api/jobs/{id}/cells/{cell}", self.codes),
            Route("/api/jobs/{id}/composition/{cell}.json", self.composition),
        ]

    async def styles(self, _: Request) -> Response:
        return JSONResponse({"styles": ["night"], "note": ""})

    async def start(self, request: Request) -> Response:
        order = await request.json()
        if not order["prompt"].strip():
            return JSONResponse({"error": "the prompt is empty; say what it shows"}, 400)
        self.orders.append(order)
        return JSONResponse({"id": f"j{len(self.orders)}", "place": 0}, 201)

    async def events(self, request: Request) -> Response:
        return StreamingResponse(
            self._said(request.path_params["id"]), media_type="text/event-stream"
        )

    async def _said(self, job: str) -> AsyncIterator[str]:
        def event(name: str, **data: object) -> str:
            return f"event: {name}\ndata: {json.dumps(data)}\n\n"

        order = self.orders[int(job[1:]) - 1]
        yield event("queued", place=0)
        for step in range(1, STEPS + 1):
            await asyncio.sleep(self.pause)
            if job in self.cancelled:
                yield event("cancelled")
                return
            yield event("step", step=step, steps=STEPS, seconds_left=(STEPS - step) * self.pause)
            if step % order["preview_every"] == 0:
                url = f"api/jobs/{job}/pictures/"
                pictures = [{"seed": s, "url": f"{url}after-{s}.png"} for s in order["seeds"]]
                yield event("preview", step=step, pictures=pictures)
        yield event("done")

    async def job(self, request: Request) -> Response:
        job = request.path_params["id"]
        if request.method == "DELETE":
            self.cancelled.append(job)
            return JSONResponse({})
        order = self.orders[int(job[1:]) - 1]
        return JSONResponse({"state": "done", "result": self._result(job, order)})

    def _result(self, job: str, order: dict) -> dict:
        url = f"api/jobs/{job}/pictures/"
        if order["kind"] == "look":
            strongest = [[3, 2.0, "fish"], [7, 1.0, ""]]
            cells = [{"cell": "down-t1.00-cond-k10", "strongest": strongest}]
            return {"picture": f"{url}before-0.png", "grids": GRIDS, "cells": cells}
        pictures = [
            {
                "seed": seed,
                **{name: f"{url}{name}-{seed}.png" for name in COLOURS},
                "scores": self._scores(fish=0.25, ssim=0.81234, ratio=1.5),
                "random_scores": self._scores(fish=0.125, ssim=0.9, ratio=1.25),
            }
            for seed in order["seeds"]
        ]
        return {"pictures": pictures, "yaml": f"prompt: {order['prompt']}\n"}

    def _scores(self, *, fish: float, ssim: float, ratio: float) -> dict:
        sizes = {"norm_ratio": ratio, "percentile_before": 50.0, "percentile": 60 * ratio}
        return {
            "annotator": {
                "objects": {"fish": {"before": 0.5, "after": fish, "moved": fish}},
                "tone": {"before": "day", "after": "night"},
            },
            "distance": {"ssim": ssim, "feature_distance": "the annotator gives no features"},
            "updates": {"1 down-t1.00-cond-k4": sizes},
        }

    async def picture(self, request: Request) -> Response:
        file, kind = io.BytesIO(), request.path_params["name"].split("-")[0]
        Image.new("RGB", (64, 64), COLOURS[kind]).save(file, "PNG")
        return Response(file.getvalue(), media_type="image/png")

    async def codes(self, request: Request) -> Response:
        height, width = GRIDS[request.path_params["cell"].split("-")[0]]
        indices = [[3, 7, 0, 0] if p == 0 else [3, 0, 0, 0] for p in range(height * width)]
        values = [[2.0, 3.0, 0, 0] if p == 0 else [p / 100, 0, 0, 0] for p in range(height * width)]
        return JSONResponse({"grid": [height, width], "indices": indices, "values": values})

    async def composition(self, request: Request) -> Response:
        cell = request.path_params["cell"]
        if cell.startswith("mid"):
            return JSONResponse({"error": f"{cell} is not labelled; run `diffusae label`"}, 400)
        rows = [[(r + c) / 32 for c in range(16)] for r in range(16)]
        return JSONResponse({"nouns": {"fish": rows, "<b>cat</b>": [[0.1] * 16] * 16}})
