"""The pages that list latents and show one, asked as a browser asks them."""

import html
import io
import re
import shlex
import shutil
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

import diffusae
from composing import compose
from diffusae.cli.arguments import CommandLine
from diffusae.explorer.app import build_app
from diffusae.explorer.explored import Explored
from diffusae.explorer.jobs import Job
from diffusae.explorer.latent_page import python_lines, shown_labels
from diffusae.explorer.security import Security
from explorer.synthetic_study import SyntheticWords

PAGE = {"accept": "text/html"}
CELL = "down-t1.00-cond-k10"


@pytest.fixture(autouse=True)
def _words(monkeypatch):
    monkeypatch.setattr(
        "diffusae.explorer.neighbours.word_embedding", lambda settings: SyntheticWords()
    )


def asker(explored: Explored) -> TestClient:
    return TestClient(build_app(explored, Security("127.0.0.1")), base_url="http://127.0.0.1")


def page(finder, address: str) -> str:
    answer = finder.get(address, headers=PAGE)
    assert answer.status_code == 200, answer.text
    return answer.text


def rows(text: str) -> list[tuple[str, str, str]]:
    """(cell, latent, label) of every row of the page's table."""
    found = re.findall(
        r"<tr><td>([^<]*)</td><th scope=\"row\"><a [^>]*>(\d+)</a>.*?<td>(.*?)</td>", text
    )
    return [(cell, latent, re.sub("<[^>]+>", "", label)) for cell, latent, label in found]


def test_a_search_is_answered_without_scripts_a_page_at_a_time(finder):
    text = page(finder, "/find/")
    assert len(rows(text)) == 50 and "<b>128</b> latents, page 1 of 3" in text
    assert 'href="?page=2"' in text and "find.js" not in text
    third = page(finder, "/find/?page=3")
    assert len(rows(third)) == 28 and 'rel="next"' not in third
    assert {label for *_, label in rows(page(finder, "/find/?q=fish"))} == {"fish"}


def test_headings_are_links_that_sort_and_turn_round(finder):
    assert 'href="?sort=-iou"' in page(finder, "/find/")
    down = page(finder, "/find/?q=cat&sort=-iou")
    assert 'aria-sort="descending"' in down and 'href="?q=cat&amp;sort=iou"' in down
    up = page(finder, "/find/?q=cat&sort=iou")
    assert rows(up)[::-1] == rows(down)[:]


def test_a_word_that_is_no_label_shows_the_nearest_labels(finder):
    text = page(finder, "/find/?q=animal")
    assert "“animal” is no label of this study" in text
    assert {label for *_, label in rows(text)} >= {"fish"}
    assert "no nearest label can be said" in page(finder, "/find/?q=zebra")


@pytest.mark.parametrize(
    ("address", "status", "message"),
    [
        ("/find/?sort=size", 400, "unknown sort"),
        ("/find/?page=9", 404, "beyond the last page, 3"),
        ("/find/?q=depth%3E1", 400, "unknown statistic"),
        ("/cells/none/", 404, "unknown cell"),
        (f"/latents/{CELL}/32/", 404, "latents 0 to 31"),
        (f"/latents/{CELL}/-1/", 404, "latents 0 to 31"),
        ("/thumbnails/none.webp", 404, "no picture"),
        ("/thumbnails/..%2F..%2Frun.json.webp", 404, ""),
        (f"/maps/{CELL}/1/none.png", 404, "no picture"),
    ],
)
def test_what_does_not_exist_is_said(finder, address, status, message):
    answer = finder.get(address, headers={"accept": "application/json"})
    assert (answer.status_code, message in answer.json()["error"]) == (status, True)


def test_text_of_a_query_is_escaped(finder):
    text = page(finder, "/find/?q=%3Cscript%3Ealert(1)%3C/script%3E")
    assert "<script>alert" not in text and html.escape("<script>alert(1)") in text


def test_the_page_of_a_cell_lists_its_labels_and_best_latents(finder, catalogue):
    text = page(finder, f"/cells/{CELL}/")
    assert {cell for cell, *_ in rows(text)} == {CELL}
    assert f'href="../../find/?cell={CELL}"' in text and "<dd>32</dd>" in text
    assert 'aria-current="page">t = 1.00' in text


def test_the_page_of_a_latent_shows_labels_with_intervals_partners_and_pictures(finder, catalogue):
    row = catalogue.row_of(CELL, 1)
    label, count, *_ = catalogue.labels_of(row)[0]
    text = page(finder, f"/latents/{CELL}/1/")
    assert f"{label}</h1>" in text and f'<td class="num">{count}</td>' in text
    assert re.search(r"\[0\.\d\d, \d\.\d\d\] of \d+", text) or "<td>–</td>" in text
    assert text.count('loading="lazy"') == 16  # 8 pictures, each under its map
    assert "Nearest latents of this cell" in text and "study.steer" in text


def test_the_interval_of_a_label_is_wilsons_also_for_very_many_pictures(synthetic, catalogue):
    row = catalogue.row_of(CELL, 1)
    explored = Explored(synthetic)
    many = replace(catalogue, active_pictures=np.full(len(catalogue), 100_000, np.int32))
    vars(explored)["catalogue"] = many
    first = shown_labels(explored, many.cell(CELL), row)[0]
    n, p = 100_000, first.count / 100_000
    z = 1.959963984540054
    half = z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    assert first.of_active is not None and first.of_active.ci95 is not None
    low, high = first.of_active.ci95
    assert high - low == pytest.approx(2 * half / (1 + z * z / n))


def test_latent_0_has_its_partners_at_the_other_times(finder):
    text = page(finder, f"/latents/{CELL}/0/")
    over_t = text[text.index("<h3>Over t") : text.index("<h3>In other seeds")]
    assert re.findall(r'href="../../../latents/([^"]+)/"', over_t) == [
        f"{CELL}/0", "down-t0.50-cond-k10/0",
    ]  # fmt: skip


def test_a_dead_latent_and_one_without_labels_say_so(finder):
    assert "This latent is dead" in page(finder, f"/latents/{CELL}/31/")
    assert "No label: in no picture" in page(finder, f"/latents/{CELL}/0/")


def test_images_are_small_webp_pictures_and_maps_of_the_gallery(finder, catalogue):
    shown = finder.get(f"/latents/{CELL}/1/data.json").json()["top_pictures"][0]["image_id"]
    thumbnail = finder.get(f"/thumbnails/{shown}.webp")
    with Image.open(io.BytesIO(thumbnail.content)) as image:
        assert (image.format, image.size) == ("WEBP", (16, 16))
        pixels = np.asarray(image.convert("RGB"))
    assert pixels[0, 0].tolist() == [int(shown), 128, 255 - int(shown)]
    heat = finder.get(f"/maps/{CELL}/1/{shown}.png")
    with Image.open(io.BytesIO(heat.content)) as image:
        assert (image.format, image.size) == ("PNG", (4, 4))


def test_the_command_composes_and_names_the_latent(finder):
    text = html.unescape(page(finder, f"/latents/{CELL}/1/"))
    command = re.search(r"<code>diffusae steer (.*?)</code>", text)
    assert command is not None
    words = CommandLine.parse(shlex.split(command[1])).overrides
    cfg = compose("steer", words)
    assert (cfg.block.name, cfg.timestep.t, cfg.conditioning.branch) == ("down", 1.0, "cond")
    assert (list(cfg.latents), cfg.sae.tag) == ([1], "k10")
    assert cfg.prompt.startswith("picture 0000") and cfg.prompt.endswith(" of a fish")


def test_the_lines_of_python_run(explored, monkeypatch):
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: None)
    cell = explored.catalogue.cell("down-t1.00-cond-k4")
    space: dict[str, Any] = {}
    exec(python_lines(explored, cell, 3, "a flat drawing of a red fish"), space)
    steered = space["steered"]
    assert (steered.picture != steered.run.picture).any()


def test_a_latent_whose_pictures_are_damaged_is_shown_without_captions(
    synthetic_directory, tmp_path
):
    copy = shutil.copytree(synthetic_directory, tmp_path / "synthetic")
    for shard in (copy / "activations" / "images").iterdir():
        shard.write_bytes(shard.read_bytes()[:-512])
    asked = asker(Explored(diffusae.open(copy)))
    text = page(asked, f"/latents/{CELL}/1/")
    assert text.count("/thumbnails/") == 8 and "There is no caption to steer" in text
    assert asked.get("/thumbnails/000001.webp").status_code == 400


def test_the_push_into_an_empty_prompt_is_one_generation_until_it_is_forgotten(
    finder, synthetic, monkeypatch
):
    explored = Explored(synthetic)
    wanted = []

    def submit(request):
        wanted.append(request)
        return Job(f"j{len(wanted)}", request), 0

    monkeypatch.setattr(explored.generation, "submit", submit)
    monkeypatch.setattr(
        explored.generation, "job", lambda name: Job(name, wanted[0]) if name == "j1" else None
    )
    headers = {"origin": "http://127.0.0.1", "content-type": "application/json"}
    address = f"/latents/{CELL}/1/empty-prompt/"
    made = [asker(explored).post(address, json={}, headers=headers).json() for _ in range(2)]
    assert made == [{"id": "j1"}] * 2 and len(wanted) == 1
    (request,) = wanted
    assert (request.prompt, request.edits.edits[0].latents) == ("", (1,))


def test_data_for_scripts_is_the_catalogue(finder, catalogue):
    index = finder.get("/find/data.json").json()
    assert index["labels"] == list(catalogue.labels) and index["forms"]["fishes"] == "fish"
    data = finder.get(f"/cells/{CELL}/latents.json").json()
    rows = catalogue.cell(CELL).rows
    assert data["statistics"]["mean"] == catalogue.statistics["mean"][rows].tolist()
    assert data["size"] == 32 and len(data["rows"]) == len(data["iou"])
