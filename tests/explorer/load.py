"""Many readers of an explorer at once: `python tests/explorer/load.py http://127.0.0.1:8765/`.

Every reader opens one page after the other. It is done twice: while the explorer does nothing else,
and while it makes pictures.
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from urllib.parse import urljoin, urlsplit

PROMPT = "a flat drawing of a red fish"


@dataclass
class Load:
    """What the readers of one round saw.

    Attributes:
        times: seconds from a request to the last byte of its answer.
        faults: a text for every answer that was not a page.
        pages: how many pages every reader has read.
    """

    times: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    pages: list[int] = field(default_factory=list)

    def __str__(self) -> str:
        times = sorted(self.times)
        at = {name: times[int(share * (len(times) - 1))] for name, share in SHARES.items()}
        shown = ", ".join(f"{name} {1000 * value:.0f} ms" for name, value in at.items())
        return f"{len(times)} pages, {len(self.faults)} faults; {shown}"


SHARES = {"median": 0.5, "95th percentile": 0.95, "largest": 1.0}


class Reader:
    """One connection that stays open, as a browser's does."""

    def __init__(self, address: str) -> None:
        place = urlsplit(address)
        self._connection = http.client.HTTPConnection(str(place.hostname), place.port, timeout=120)

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, str]:
        """Status and text of an answer."""
        headers = {"accept": "text/html"} if method == "GET" else {}
        content = None if body is None else json.dumps(body)
        self._connection.request(method, path, content, headers)
        answer = self._connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")


def pages_of(address: str, most: int = 40) -> list[str]:
    """Paths of the pages that links lead to, from the start page on."""
    reader, paths, at = Reader(address), ["/"], 0
    while at < len(paths) and len(paths) < most:
        _, page = reader.ask("GET", paths[at])
        for link in re.findall(r'<a [^>]*href="([^"#]+/)"', page):
            path = urlsplit(urljoin(address.rstrip("/") + paths[at], link)).path
            if path not in paths:
                paths.append(path)
        at += 1
    return paths[:most]


def read_by(
    readers: int, address: str, paths: list[str], *, until: Callable[[], bool], pause: float = 0
) -> Load:
    """Let many readers read at once until something is so; every one reads a page at least.

    Args:
        pause: seconds that a reader looks at a page, on average.
    """
    load = Load(pages=[0] * readers)

    def read(number: int) -> None:
        reader, draw = Reader(address), Random(number)
        while load.pages[number] == 0 or not until():
            time.sleep(draw.uniform(0, 2 * pause))
            path, began = draw.choice(paths), time.perf_counter()
            status, _ = reader.ask("GET", path)
            load.times.append(time.perf_counter() - began)
            load.pages[number] += 1
            if status != 200:
                load.faults.append(f"{path}: {status}")

    threads = [threading.Thread(target=read, args=(number,)) for number in range(readers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return load


def generated(address: str, seeds: int) -> str:
    """Let the explorer make pictures; how it ended, such as "done"."""
    reader = Reader(address)
    body = {"kind": "look", "prompt": PROMPT, "seeds": [0], "edits": []}
    state = "done"
    for seed in range(seeds):
        status, text = reader.ask("POST", "/api/jobs", {**body, "seeds": [seed]})
        assert status == 201, text
        job = json.loads(text)["id"]
        while (state := json.loads(reader.ask("GET", f"/api/jobs/{job}")[1])["state"]) in (
            "queued",
            "running",
        ):
            time.sleep(0.2)
        if state != "done":
            return state
    return state


def while_generating(
    readers: int, address: str, paths: list[str], seeds: int, *, pause: float = 0
) -> tuple[Load, str]:
    """What readers see while pictures are made, and how the making ended."""
    ended: list[str] = []
    thread = threading.Thread(target=lambda: ended.append(generated(address, seeds)))
    thread.start()
    load = read_by(readers, address, paths, until=lambda: not thread.is_alive(), pause=pause)
    thread.join()
    return load, ended[0] if ended else "failed"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument("--readers", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--pictures", type=int, default=3)
    parser.add_argument("--pause", type=float, default=1.0, help="seconds that a reader looks")
    asked = parser.parse_args()
    paths = pages_of(asked.address)
    print(f"{len(paths)} different pages, {asked.readers} readers")
    for readers in (1, asked.readers):
        end = time.monotonic() + asked.seconds
        load = read_by(
            readers,
            asked.address,
            paths,
            until=lambda end=end: time.monotonic() > end,
            pause=asked.pause,
        )
        print(f"{readers} at once: {load}")
    began = time.monotonic()
    load, ended = while_generating(
        asked.readers, asked.address, paths, asked.pictures, pause=asked.pause
    )
    print(f"the pictures took {time.monotonic() - began:.0f} s")
    print(f"{asked.readers} at once while {asked.pictures} pictures are made ({ended}): {load}")
    for fault in load.faults[:10]:
        print(fault)


if __name__ == "__main__":
    main()
