"""The addresses of generations, and of the codes of pictures that were collected."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from diffusae.errors import UserError, unknown
from diffusae.explorer.explored import Explored, Missing
from diffusae.explorer.generation import Full
from diffusae.explorer.jobs import Job, JobRequest
from diffusae.explorer.looking import CellCodes
from diffusae.parsing import json_value

Source = Callable[[Request], tuple[CellCodes, str]]
Endpoint = Callable[[Request], Response]

EVERY = 0.05
"""Seconds between two looks for events."""
ALIVE = 10.0
"""Seconds without an event after which a stream says that it is there."""


def routes(explored: Explored) -> list[Route]:
    """The addresses of jobs, and of codes and compositions of pictures."""

    def job_of(request: Request) -> Job:
        name = request.path_params["job"]
        if (job := explored.generation.job(name)) is None:
            raise Missing(f"there is no generation {name[:20]!r} any more; start it again")
        return job

    async def start(request: Request) -> Response:
        wanted = JobRequest.of(_json(await request.body()))
        try:
            job, place = await run_in_threadpool(explored.generation.submit, wanted)
        except Full as error:
            return JSONResponse({"error": str(error)}, 429)
        return JSONResponse({"id": job.id, "place": place}, 201)

    async def events(request: Request) -> Response:
        job = job_of(request)
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        return StreamingResponse(_events(job), media_type="text/event-stream", headers=headers)

    def state(request: Request) -> Response:
        job = job_of(request)
        last = job.events[-1][1] if job.ended else {}
        return JSONResponse({"id": job.id, "state": job.state, "result": job.result} | last)

    def cancel(request: Request) -> Response:
        job = job_of(request)
        job.cancel()
        return JSONResponse({"id": job.id, "state": job.state})

    def picture(request: Request) -> Response:
        job, name = job_of(request), request.path_params["name"]
        if (png := job.pictures.get(name)) is None:
            raise Missing(
                str(unknown("picture of this generation:", name[:80], list(job.pictures)))
            )
        return Response(png, media_type="image/png", headers={"cache-control": "no-store"})

    def generated(request: Request) -> tuple[CellCodes, str]:
        """Codes of a generated picture, and its prompt."""
        job, cell = job_of(request), explored.cell(_cell(request))
        if cell.name not in job.codes:
            raise Missing(f"the generation {job.id} is {job.state} and has no codes of {cell.name}")
        return job.codes[cell.name], job.request.prompt

    def collected(request: Request) -> tuple[CellCodes, str]:
        """Codes of a collected picture, and its prompt."""
        cell, image_id = explored.cell(_cell(request)), request.path_params["image"]
        looking = explored.generation.looking
        codes = looking.codes(cell.name, image_id)
        if codes is None:
            raise Missing(f"the study stores no grid of a picture {image_id[:80]!r}")
        return codes, looking.prompt(image_id) or ""

    def codes_by(source: Source) -> Endpoint:
        return lambda request: JSONResponse(source(request)[0].to_json())

    def composition_by(source: Source) -> Endpoint:
        def compose(request: Request) -> Response:
            looking = explored.generation.looking
            return JSONResponse(looking.composition(_cell(request), *source(request)))

        return compose

    def model(request: Request) -> Response:
        made = explored.generation
        return JSONResponse(
            {"state": made.state, "reason": made.reason, "steps": made.maker.model.steps}
        )

    job, image = "/api/jobs/{job}", "/look/pictures/{image}"
    return [
        Route("/api/model", model),
        Route("/api/jobs", start, methods=["POST"]),
        Route(job, state),
        Route(job, cancel, methods=["DELETE"]),
        Route(f"{job}/events", events),
        Route(f"{job}/pictures/{{name}}.png", picture),
        Route(f"{job}/cells/{{cell}}", codes_by(generated)),
        Route(f"{job}/composition/{{cell}}.json", composition_by(generated)),
        Route(f"{image}/cells/{{cell}}.json", codes_by(collected)),
        Route(f"{image}/composition/{{cell}}.json", composition_by(collected)),
    ]


def _cell(request: Request) -> str:
    return request.path_params["cell"]


def _json(body: bytes) -> Any:
    try:
        return json_value(body)
    except UserError as error:
        raise UserError(f"the request cannot be read: {error}") from error


async def _events(job: Job) -> AsyncGenerator[str, None]:
    """All events of a job, those that were and those that come. The job is cancelled when the last
    listener is gone before its end.
    """
    job.listeners += 1
    sent, last = 0, time.monotonic()
    try:
        while True:
            ended = job.ended
            for name, data in job.events[sent:]:
                yield f"event: {name}\ndata: {json.dumps(data)}\n\n"
                sent, last = sent + 1, time.monotonic()
            if ended:
                return
            if time.monotonic() - last > ALIVE:
                yield ": alive\n\n"
                last = time.monotonic()
            await asyncio.sleep(EVERY)
    finally:
        job.listeners -= 1
        job.touched = time.monotonic()
        if not job.listeners and not job.ended:
            job.cancel()
