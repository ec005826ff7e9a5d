"""The site of a study, asked as a web server would give it: below a prefix, and without a model."""

import functools
import http.server
import json
import logging
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from urllib.parse import urldefrag, urljoin

import pytest

import diffusae
from composing import compose
from diffusae.errors import UserError
from diffusae.explorer.explored import Explored
from diffusae.explorer.export import chosen_latents, comparisons, export_study
from diffusae.stages.explore import explore

FIRST = "down-t1.00-cond-k4"


@pytest.fixture(scope="module")
def site(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny study's site in a folder `prefix/site` of a web server."""
    place = tmp_path_factory.mktemp("served") / "prefix" / "site"
    place.parent.mkdir()
    explored = Explored(diffusae.open(directory), static=True)
    explored.notes.change(FIRST, 20, "name", "a name of mine", was="")
    explored.notes.change(FIRST, 20, "bookmarked", True, was=False)
    export_study(explored, place, most_latents=5, most_pictures=2)
    explored.notes.path.unlink()  # other tests have the study without notes
    return place


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """Where the site is served."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None: ...

    handler = functools.partial(Quiet, directory=str(site.parents[1]))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/prefix/site/"
    server.shutdown()
    server.server_close()


def links_of(page: str, text: str) -> list[str]:
    found = re.findall(r'\s(?:href|src|action)="([^"]*)"', text)
    links = [urldefrag(urljoin(page, unescape(link)))[0].split("?")[0] for link in found]
    return [link for link in links if link.startswith("http://127.0.0.1")]


def test_every_link_of_every_page_leads_to_a_file_below_the_prefix(address: str):
    seen, queue, broken = set(), [(address, "")], []
    while queue:
        link, page = queue.pop()
        if link in seen:
            continue
        seen.add(link)
        assert link.startswith(address), f"{page} links to {link}"
        try:
            with urllib.request.urlopen(link) as answer:
                text = answer.read().decode("utf-8", "replace")
                kind = answer.headers["content-type"]
        except urllib.error.HTTPError as error:
            broken.append((error.code, link, page))
            continue
        if kind.startswith("text/html"):
            queue += [(one, link) for one in links_of(link, text)]
    assert not broken
    assert len(seen) > 20


def test_the_pages_of_chosen_latents_are_there_and_the_rest_is_said_to_be_left_out(site: Path):
    latents = {str(p.parent.relative_to(site / "latents")) for p in site.glob("latents/*/*/*.html")}
    assert f"{FIRST}/20" in latents  # it has a note
    assert len(latents) == 5
    assert "Not in this copy" in (site / "404.html").read_text()
    # Its page leads to the latents before and after it, which have none.
    page = (site / "latents" / FIRST / "20" / "index.html").read_text()
    assert 'rel="next" href="../../../left-out/"' in page


def test_the_search_of_the_site_knows_which_latents_have_a_page(site: Path):
    listed = json.loads((site / "latents" / "pages.json").read_text())
    assert sum(map(len, listed.values())) == 5
    assert 20 in listed[FIRST]


def test_notes_and_bookmarks_are_inside(site: Path):
    assert "a name of mine" in (site / "index.html").read_text()
    assert "a name of mine" in (site / "notes/index.html").read_text()


def test_what_needs_a_model_says_so(site: Path):
    for page in ("look", "steer"):
        assert "read-only copy of a study" in (site / page / "index.html").read_text()


def test_no_file_has_a_path_of_this_machine(site: Path, directory: Path):
    paths = [str(directory).encode(), str(Path(diffusae.__file__).parent).encode()]
    files = [file for file in site.rglob("*") if file.is_file()]
    assert [f for f in files if any(path in f.read_bytes() for path in paths)] == []


def test_pages_forbid_scripts_and_files_of_other_sites_by_themselves(site: Path):
    page = (site / "index.html").read_text()
    assert """http-equiv="Content-Security-Policy" content="default-src &#39;none&#39;;""" in page


def test_latents_are_chosen_by_notes_then_by_the_pictures_of_their_label(explored: Explored):
    named = [address.split("/")[3] for address in chosen_latents(explored, 3)]
    assert named == ["9", "9", "3"]  # background has 8 pictures, fish 6
    assert len(chosen_latents(explored, 10_000)) == 3 * 64


def test_cells_that_differ_in_one_thing_are_compared(explored: Explored):
    pairs = [address.split("/")[2:4] for address in comparisons(explored)]
    assert [FIRST, "down-t0.50-cond-k4"] in pairs
    assert ["down-t0.50-cond-k4", "mid-t0.50-cond-k4"] in pairs
    assert [FIRST, "mid-t0.50-cond-k4"] not in pairs  # another block and another t


def test_what_is_left_out_is_told(explored: Explored, tmp_path: Path, caplog):
    with caplog.at_level(logging.INFO):
        copy = Explored(explored.study, static=True)
        export_study(copy, tmp_path / "site", most_latents=1, most_pictures=0)
    assert (
        "191 of 192 latents have no page: export_latents=1; labelled ones come first" in caplog.text
    )


def test_the_command_writes_the_site_and_serves_nothing(directory: Path, tmp_path: Path):
    site = tmp_path / "site"
    explore(compose("explore", [f"study={directory}", f"export={site}", "export_latents=0"]))
    assert (site / "index.html").is_file()
    assert [page.name for page in (site / "latents").iterdir()] == ["pages.json"]


def test_another_study_that_is_none_is_answered_before_anything_is_served(directory: Path):
    with pytest.raises(UserError, match="there is no study in"):
        explore(compose("explore", [f"study={directory}", f"against={directory.parent}"]))
