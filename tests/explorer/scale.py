"""Measures the pages that find latents on large synthetic studies: time and memory.

    PYTHONPATH=src:tests python tests/explorer/scale.py cells88|sd14 DIRECTORY

`cells88` has 88 cells of 512 latents; `sd14` the size of a study of SD 1.4: 18 cells of 5120
latents over updates of 1280 entries, and 40,000 pictures (2 GB on the disk). The study is made at
the first call, and measured at the next ones. A request is timed in the process of the server:
milliseconds that passed, those of the processor, and the memory above that of the libraries.
"""

import random
import resource
import sys
import time
from pathlib import Path

from starlette.testclient import TestClient

import diffusae
from diffusae.explorer.app import build_app
from diffusae.explorer.explored import Explored
from diffusae.explorer.security import Security
from explorer.synthetic_study import NOUNS, Size, place_synthetic_study

SIZES = {
    "cells88": Size(
        times=[round(1 - n / 21, 2) for n in range(22)],
        branches=("cond", "uncond"),
        d_in=64,
        d_sae=512,
        pictures=112,
    ),
    "sd14": Size(
        blocks=("down", "mid", "up"),
        times=(1.0, 0.5, 0.0),
        branches=("cond", "uncond"),
        d_in=1280,
        d_sae=5120,
        pictures=40_000,
        labels=20,
        side=64,
        nouns=(*NOUNS, *(f"noun{n}" for n in range(991))),
    ),
}
REPEATED = 60
"""Latents and thumbnails that are drawn at random."""


def measure(study: Path, size: Size) -> None:
    """Ask for every kind of page, twice where the second answer is kept."""
    before = memory()
    explored = Explored(diffusae.open(study))
    client = TestClient(build_app(explored, Security("127.0.0.1")), base_url="http://127.0.0.1")
    cells = list(explored.cells)

    def ask(address: str) -> None:
        wall, processor = time.perf_counter(), time.process_time()
        answer = client.get(address, headers={"accept": "text/html"})
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        print(
            f"{answer.status_code} {1000 * wall:6.0f} ms, processor {1000 * processor:6.0f} ms,"
            f" +{memory() - before:4.0f} MB, {len(answer.content):8d} bytes  {address}"
        )

    cell = cells[0]
    for address in (
        "/find/", "/find/", "/find/?q=fish&sort=-iou", "/find/?sort=-frequency&page=20",
        "/find/data.json", f"/cells/{cell}/", f"/cells/{cell}/", f"/cells/{cell}/latents.json",
        f"/latents/{cell}/1/", f"/latents/{cell}/1/",
        f"/latents/{cell}/1/activity/", f"/latents/{cell}/1/activity/",
    ):  # fmt: skip
        ask(address)
    drawn = random.Random(0)
    for kind in ("latents", "thumbnails"):
        begun = time.process_time()
        for _ in range(REPEATED):
            latent, picture = drawn.randrange(size.d_sae), drawn.randrange(size.pictures)
            place = (
                f"{drawn.choice(cells)}/{latent}/" if kind == "latents" else f"{picture:06d}.webp"
            )
            client.get(f"/{kind}/{place}", headers={"accept": "text/html"})
        each = (time.process_time() - begun) / REPEATED
        print(f"{REPEATED} other {kind}: {1000 * each:.0f} ms of the processor a page")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"memory: libraries {before:.0f} MB, then +{memory() - before:.0f} MB; peak {peak} MB")


def memory() -> float:
    """MB that the process has now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


if __name__ == "__main__":
    name, outputs = sys.argv[1], Path(sys.argv[2])
    if (outputs / "synthetic").is_dir():
        measure(outputs / "synthetic", SIZES[name])
    else:
        print(f"made {place_synthetic_study(outputs, SIZES[name])}; call again to measure")
