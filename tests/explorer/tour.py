"""A tour of the explorer in a real browser; its pictures are those of the documentation.

    python tests/explorer/tour.py outputs/miniature docs/how-to/explore

It opens the study, finds a concept, looks into a picture, steers one, and compares. Every stop
becomes a picture STOP.webp in the folder, and all of them together tour.webp, which moves.
It needs chromium and playwright; with the miniature it takes a minute or two.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page, sync_playwright

SHOWN = (840, 525)
"""Pixels of the pictures that are kept."""
SECONDS = 2.5
"""A stop of the moving one."""


def start(page: Page) -> None:
    """The cells."""
    page.goto("./")


def find(page: Page) -> None:
    """The latents of a word."""
    page.goto("find/?q=fish&sort=-count")


def latent(page: Page) -> None:
    """The first of them."""
    page.locator("main table a[href*='latents/']").first.click()
    settle(page)


def look(page: Page) -> None:
    """The latents of a collected picture."""
    page.goto("look/")
    settle(page)
    page.locator("a[href*='look/pictures/']").first.click()
    settle(page)
    page.locator('#strip [data-labelled][data-column="1"]').first.click()
    settle(page)
    box = page.locator("#layers").bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + 0.75 * box["width"], box["y"] + 0.72 * box["height"])
    page.locator("#active [data-latent]").first.click()


def steer(page: Page) -> None:
    """A fish is put into the upper left corner."""
    page.goto("steer/#prompt=a+flat+drawing+of+a+red+fish")
    page.get_by_label("What").fill("fish")
    page.get_by_role("button", name="Add edit").click()
    page.locator("#edit-0-region").select_option("top_left")
    page.get_by_role("button", name="Generate").click()
    page.locator("#job-status", has_text="Done.").wait_for()
    page.locator("#results").evaluate("e => scrollTo(0, e.getBoundingClientRect().top - 70)")


def charts(page: Page) -> None:
    """What was measured."""
    page.goto("charts/#emergence")


def compare(page: Page) -> None:
    """Two moments of a block."""
    page.goto("compare/")
    page.locator("select[name=second]").select_option(index=2)
    page.get_by_role("button", name="Compare").click()


STOPS: tuple[Callable[[Page], None], ...] = (start, find, latent, look, steer, charts, compare)


def settle(page: Page) -> None:
    """Wait until charts and pictures are there."""
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(1200)


def tour(address: str, folder: Path) -> None:
    """Take every stop's picture, and write them."""
    frames: list[Image.Image] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        context: Any = browser.new_context(
            base_url=address, viewport={"width": 1120, "height": 700}, color_scheme="light"
        )
        context.set_default_timeout(120_000)
        page = context.new_page()
        for stop in STOPS:
            stop(page)
            settle(page)
            shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
            frames.append(shot.resize(SHOWN, Image.Resampling.LANCZOS))
            frames[-1].save(folder / f"{stop.__name__}.webp", quality=80)
            print(stop.__name__, flush=True)
        browser.close()
    frames[0].save(
        folder / "tour.webp", save_all=True, append_images=frames[1:], loop=0, quality=70,
        duration=int(1000 * SECONDS),
    )  # fmt: skip


def main(study: str, folder: str, *overrides: str) -> None:
    """Serve the study, and go through it."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "diffusae", "explore", study, "port=0", *overrides]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            line = next(line for line in server.stdout if line.startswith("open "))
            tour(line.split()[1], Path(folder))
        finally:
            server.terminate()


if __name__ == "__main__":
    main(*sys.argv[1:])
