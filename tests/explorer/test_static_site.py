"""A site of files, made of a small application with three latents."""

import json
import logging

import pytest
from starlette.applications import Starlette
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse
from starlette.routing import Route

from diffusae.errors import UserError
from diffusae.explorer import static_site
from diffusae.explorer.static_site import MARKER, export_site

START = '<a href="cells/a/">a</a> <a href="latents/a/2/">2</a> <img alt="" src="thumbnails/p.webp">'
CELL = '<a href="../../latents/a/0/">0</a> <a href="../../latents/a/1/">1</a> <a href="../../x/">x'
LATENT = '<a href="../../../cells/a/">cell</a> <img alt="" src="../../../thumbnails/{}.webp">'


def pages(request):
    return HTMLResponse(LATENT.format(request.path_params["latent"]))


@pytest.fixture
def app(monkeypatch):
    monkeypatch.setattr(static_site, "asset_names", lambda: ["page.css"])
    return Starlette(
        routes=[
            Route("/", lambda _: HTMLResponse(START)),
            Route("/left-out/", lambda _: HTMLResponse("left out")),
            Route("/cells/a/", lambda _: HTMLResponse(CELL)),
            Route("/latents/a/{latent}/", pages),
            Route("/find/data.json", lambda _: JSONResponse([1, 2])),
            Route("/{kind}/{name}", lambda request: PlainTextResponse(request.path_params["name"])),
        ]
    )


def export(app, directory, latents=(0, 2), **changed):
    chosen = [f"/latents/a/{latent}/" for latent in latents]
    settings = {
        "wanted": lambda address: address.startswith(("/cells/", "/thumbnails/", "/static/")),
        "latents": chosen, "total_latents": 3, "further": ["/find/data.json"],
    }  # fmt: skip
    return export_site(app, directory, **(settings | changed))


def test_the_site_has_every_page_that_links_lead_to_and_what_they_load(app, tmp_path):
    made = export(app, tmp_path / "site")
    files = {str(p.relative_to(tmp_path / "site")) for p in (tmp_path / "site").rglob("*.*")}
    assert files == {
        "index.html", "404.html", "left-out/index.html", "cells/a/index.html", "static/page.css",
        "latents/a/0/index.html", "latents/a/2/index.html", "find/data.json", MARKER, ".nojekyll",
        "thumbnails/p.webp", "thumbnails/0.webp", "thumbnails/2.webp",
    }  # fmt: skip
    assert (made.latents, made.left_out, made.failed) == (2, 1, 0)
    assert json.loads((tmp_path / "site" / MARKER).read_text())["left_out"] == 1


def test_links_to_what_is_left_out_say_so_and_others_stay(app, tmp_path):
    export(app, tmp_path / "site")
    assert (tmp_path / "site" / "index.html").read_text() == START
    left_out = CELL.replace("../../latents/a/1/", "../../left-out/").replace(
        "../../x/", "../../left-out/"
    )
    assert (tmp_path / "site/cells/a/index.html").read_text() == left_out


def test_an_earlier_export_is_replaced_whole_and_nothing_is_left_beside_it(app, tmp_path):
    export(app, tmp_path / "site", latents=(0, 1))
    export(app, tmp_path / "site", latents=(2,))
    assert [p.name for p in (tmp_path / "site/latents/a").iterdir()] == ["2"]
    assert [p.name for p in tmp_path.iterdir()] == ["site"]


def test_a_directory_with_anything_else_is_refused_and_stays_as_it_is(app, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match=r"holds thesis\.tex, which no earlier export made"):
        export(app, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_files_that_were_put_into_an_earlier_export_are_not_lost(app, tmp_path):
    export(app, tmp_path / "site")
    (tmp_path / "site" / "CNAME").write_text("concepts.example")
    with pytest.raises(UserError, match="holds CNAME, which no earlier export made"):
        export(app, tmp_path / "site")
    assert (tmp_path / "site" / "CNAME").is_file()


def test_what_fails_on_the_way_leaves_the_earlier_export(app, tmp_path):
    export(app, tmp_path / "site", latents=(0,))

    def broken(_):
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        export(app, tmp_path / "site", wanted=broken)
    assert (tmp_path / "site/latents/a/0/index.html").is_file()
    assert [p.name for p in tmp_path.iterdir()] == ["site"]


def test_a_page_that_cannot_be_made_is_said_and_the_site_is_made(app, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        made = export(app, tmp_path / "site", further=["/find/data.json", "/a/b/c/"])
    assert made.failed == 1
    assert "/a/b/c/ could not be made (status 404)" in caplog.text


def test_the_size_is_said_before_the_pages_of_latents_are_made(app, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        export(app, tmp_path / "site")
    assert "the site: 2 pages of latents, at most about 0 MB" in caplog.text


def test_a_site_that_does_not_fit_is_refused_before_it_is_made(app, tmp_path, monkeypatch):
    monkeypatch.setattr(static_site, "SAMPLE", 1)
    monkeypatch.setattr(static_site, "free_bytes", lambda _: 10)
    with pytest.raises(UserError, match="0 MB are free; lower export_latents"):
        export(app, tmp_path / "site")
    assert not any(tmp_path.iterdir())
