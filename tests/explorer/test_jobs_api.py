"""The addresses of generations: what a program gets, and what is refused with which status."""

import asyncio
import io
import json
import time
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from diffusae.explorer import jobs_api
from diffusae.explorer.explored import Explored
from diffusae.explorer.jobs import Job, JobRequest
from exploring.test_edit_lists import AMPLIFIED, MOVED, PROMPT

CELL = "down-t1.00-cond-k4"
LOOK: dict[str, Any] = {"kind": "look", "prompt": PROMPT}
STEER: dict[str, Any] = {"kind": "steer", "prompt": PROMPT, "edits": [MOVED, AMPLIFIED]}


def events_of(client: TestClient, job: str) -> list[tuple[str, dict[str, Any]]]:
    """All events of a job, to its end."""
    with client.stream("GET", f"/api/jobs/{job}/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        text = answer.read().decode()
    parts = [part.split("\n") for part in text.split("\n\n") if part.startswith("event: ")]
    return [(name[7:], json.loads(data[6:])) for name, data in parts]


def started(client: TestClient, value: dict[str, Any]) -> str:
    answer = client.post("/api/jobs", json=value)
    assert answer.status_code == 201, answer.text
    assert answer.json()["place"] == 0
    return answer.json()["id"]


def picture_at(client: TestClient, address: str) -> np.ndarray:
    answer = client.get(f"/{address}")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    return np.asarray(Image.open(io.BytesIO(answer.content)))


def test_a_look_is_asked_for_followed_and_read(client: TestClient, explored: Explored):
    job = started(client, LOOK | {"preview_every": 1})
    events = events_of(client, job)
    names = [name for name, _ in events]
    assert names[0] == "queued" and names[-1] == "done" and names.count("step") == 3
    (url,) = {one["url"] for name, data in events if name == "preview" for one in data["pictures"]
              if one["url"].endswith("preview-0-2.png")}  # fmt: skip
    assert picture_at(client, url).shape == (64, 64, 3)
    answer = client.get(f"/api/jobs/{job}").json()
    assert answer["state"] == "done"
    assert picture_at(client, answer["result"]["picture"]).shape == (64, 64, 3)
    assert {cell["cell"] for cell in answer["result"]["cells"]} == set(explored.cells)
    codes = client.get(f"/api/jobs/{job}/cells/{CELL}").json()
    assert codes["grid"] == [16, 16] and len(codes["indices"]) == len(codes["values"]) == 256
    assert client.get("/api/model").json() == {"state": "ready", "reason": "", "steps": 3}


def test_a_steered_picture_comes_with_its_list_and_scores(client: TestClient):
    job = started(client, STEER | {"seeds": [2]})
    assert events_of(client, job)[-1] == ("done", {})
    result = client.get(f"/api/jobs/{job}").json()["result"]
    (row,) = result["pictures"]
    before, after, beside = (
        picture_at(client, row[name]) for name in ("before", "after", "random")
    )
    assert (before != after).any() and (after != beside).any()
    assert "picture_seed: 2" in result["yaml"] and PROMPT in result["yaml"]
    for scores in (row["scores"], row["random_scores"]):
        assert scores["annotator"]["style"].keys() == {"before", "after"}
        assert -1 <= scores["distance"]["ssim"] < 1
        assert set(scores["updates"]) == {"1 down-t0.50-cond-k4", "2 down-t1.00-cond-k4"}
    moved = row["scores"]["updates"]["1 down-t0.50-cond-k4"]
    assert moved["norm_ratio"] > 1
    assert moved["percentile"].startswith("no data: ")  # this study stores no updates


def test_a_generation_is_cancelled_by_its_address(client: TestClient):
    job = started(client, STEER | {"seeds": list(range(8))})
    assert client.delete(f"/api/jobs/{job}").status_code == 200
    assert events_of(client, job)[-1][0] == "cancelled"
    assert client.get(f"/api/jobs/{job}").json()["state"] == "cancelled"


def test_a_failure_is_told_in_words(client: TestClient):
    one = MOVED | {"region": {"height": 64, "width": 64, "rows": ["1" + "0" * 63] * 64}}
    job = started(client, STEER | {"edits": [one]})
    name, data = events_of(client, job)[-1]
    assert name == "failed" and "paint a larger one" in data["message"]
    assert client.get(f"/api/jobs/{job}").json()["message"] == data["message"]


@pytest.mark.parametrize(
    ("ask", "status", "message"),
    [
        (lambda c: c.post("/api/jobs", json={}), 400, "kind must be"),
        (lambda c: c.post("/api/jobs", content=b"{"), 400, "the request cannot be read"),
        (lambda c: c.post("/api/jobs", json=STEER | {"seeds": []}), 400, "seeds must be"),
        (
            lambda c: c.post("/api/jobs", json=STEER | {"edits": [MOVED | {"latents": [64]}]}),
            400,
            "latents [64] do not exist",
        ),
        (lambda c: c.get("/api/jobs/j999"), 404, "there is no generation 'j999'"),
        (lambda c: c.get("/api/jobs/j999/events"), 404, "there is no generation"),
        (lambda c: c.get(f"/api/jobs/j999/cells/{CELL}"), 404, "there is no generation"),
        (lambda c: c.get("/look/pictures/a/cells/none.json"), 404, "unknown cell"),
        (lambda c: c.get(f"/look/pictures/a/cells/{CELL}.json"), 400, "manifest"),
        (lambda c: c.get("/api/jobs"), 405, ""),
    ],
)
def test_what_cannot_be_is_answered_with_its_status_and_one_text(client, ask, status, message):
    answer = ask(client)
    assert answer.status_code == status
    assert message in answer.json()["error"]


def test_a_full_queue_is_told_with_its_own_status(client, explored, monkeypatch):
    generation = explored.generation
    monkeypatch.setattr(generation, "_begin", lambda: None)
    jobs = [started(client, LOOK)]
    for _ in range(15):
        jobs.append(client.post("/api/jobs", json=LOOK).json()["id"])
    assert client.post("/api/jobs", json=LOOK).status_code == 429
    for job in jobs:
        client.delete(f"/api/jobs/{job}")


def test_a_job_ends_when_its_last_listener_is_gone():
    job = Job("j1", JobRequest.of(LOOK))
    job.emit("queued", place=0)

    async def listen_twice() -> None:
        one, other = jobs_api._events(job), jobs_api._events(job)
        assert "event: queued" in await anext(one) and "queued" in await anext(other)
        assert job.listeners == 2
        await one.aclose()
        assert not job.ended
        await other.aclose()

    asyncio.run(listen_twice())
    assert job.state == "cancelled"


def test_a_stream_says_that_it_is_there_while_nothing_happens(monkeypatch):
    monkeypatch.setattr(jobs_api, "ALIVE", 0.0)
    job = Job("j1", JobRequest.of(LOOK))

    async def listen() -> str:
        stream = jobs_api._events(job)
        try:
            return await anext(stream)
        finally:
            await stream.aclose()

    began = time.monotonic()
    assert asyncio.run(listen()) == ": alive\n\n"
    assert job.touched >= began
