"""How long pages and pictures of an explorer take: `python tests/explorer/speed.py
http://127.0.0.1:8765/`, where `diffusae explore` was started a minute ago.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from typing import Any

import httpx

PROMPT = "a flat drawing of a red fish"


def timed(act: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def pages(client: httpx.Client) -> None:
    """The first time and the second time of a page of every kind."""
    cells = re.findall(r'href="cells/([^/"]+)/"', client.get("/").text)
    latent = f"/latents/{cells[-1]}/0/"
    two = f"/compare/{cells[0]}/{cells[-1]}/"
    for path in ("/", "/find/?q=fish", f"/cells/{cells[-1]}/", latent, two, "/charts/", "/look/"):
        first, again = (timed(lambda: client.get(path).raise_for_status()) for _ in range(2))  # noqa: B023
        print(f"{path}: {1000 * first:.0f} ms, again {1000 * again:.0f} ms", flush=True)


def generation(client: httpx.Client, kind: str, seed: int, edits: list[Any]) -> None:
    """The time of one generation, to its first preview and to its end."""
    order = {"kind": kind, "prompt": PROMPT, "seeds": [seed], "edits": edits, "preview_every": 3}
    began, first = time.perf_counter(), None
    job = client.post("/api/jobs", json=order).raise_for_status().json()["id"]
    with client.stream("GET", f"/api/jobs/{job}/events") as events:
        for line in events.iter_lines():
            if line == "event: preview" and first is None:
                first = time.perf_counter() - began
            if line in ("event: done", "event: failed", "event: cancelled"):
                break
    seconds = time.perf_counter() - began
    shown = "none" if first is None else f"{first:.2f} s"
    print(f"{kind}, seed {seed}: {seconds:.2f} s, first preview {shown}", flush=True)


def main() -> None:
    with httpx.Client(base_url=sys.argv[1], timeout=300, headers={"accept": "text/html"}) as client:
        pages(client)
        cell = re.findall(r'href="cells/([^/"]+)/"', client.get("/").text)[0]
        edit = {"cell": cell, "latents": [0], "intervention": "spatial", "region": "top_left"}
        generation(client, "look", 0, [])  # loads the model
        generation(client, "look", 1, [])
        for seed in (2, 3):
            generation(client, "steer", seed, [edit | {"strength": 3.0}])
        generation(client, "steer", 3, [edit | {"strength": 4.0}])  # unedited: made already


if __name__ == "__main__":
    main()
