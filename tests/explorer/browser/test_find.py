"""The search in a browser: by the server without scripts, and by find.js in an exported study."""

from collections.abc import Iterator

import pytest
from starlette.responses import JSONResponse
from starlette.routing import Route

from diffusae.errors import UserError
from diffusae.explorer.app import build_app
from diffusae.explorer.explored import Explored
from diffusae.explorer.find_page import cell_data, index_data
from diffusae.explorer.searching import Query, find
from diffusae.explorer.security import Security
from diffusae.exploring.opened import OpenStudy
from explorer.browser.conftest import served

QUERIES = [
    {}, {"q": "fish"}, {"q": "Fishes"}, {"q": "two cats"}, {"q": "light"}, {"q": "hot dogs"},
    {"q": "zebra"}, {"q": "373"}, {"q": "1 5"}, {"q": "fish 4"}, {"q": "iou>0.8"},
    {"q": "tree iou<=0.7 share>0.3"}, {"q": "frequency=0"}, {"q": "cohesion<0.5"},
    {"q": "mean>=0.05", "sort": "-mean"}, {"block": "mid", "t": "0.50"}, {"label": "boat"},
    {"label": "boat", "q": "cat"}, {"label": "dragon"}, {"dead": "yes"},
    {"dead": "no", "branch": "cond", "tag": "k10"}, {"cell": "mid-t1.00-cond-k10"},
    {"sort": "cell"}, {"sort": "-cell"}, {"sort": "latent"}, {"sort": "-latent"},
    {"sort": "label"}, {"sort": "-label"}, {"sort": "count"}, {"sort": "-iou", "q": "car"},
    {"sort": "stability"}, {"sort": "-cohesion"}, {"sort": "density"}, {"sort": "-share"},
]  # fmt: skip
ASK = """async ([index, latents, queries]) => {
  const own = await import(document.querySelector("script[src$='find.js']").src);
  return queries.map(asked => own.find(index, latents, own.queryOf(new URLSearchParams(asked)))
    .map(row => [row.cell.name, row.latent, row.label === null ? "" : index.labels[row.label]]));
}"""


@pytest.fixture(scope="module")
def exported(synthetic: OpenStudy) -> Iterator[str]:
    """Where the pages of an exported synthetic study are, with a page of every latent."""
    explored = Explored(synthetic, static=True)
    app = build_app(explored, Security("127.0.0.1"))
    pages = {cell.name: list(range(cell.size)) for cell in explored.catalogue.cells}
    app.router.routes.insert(0, Route("/latents/pages.json", lambda _: JSONResponse(pages)))
    with served(app) as address:
        yield address


@pytest.fixture
def static_page(page, exported):
    """A page at an address that knows no parameters, as that of a static server."""
    page.route("**/find/?*", lambda route: route.continue_(url=route.request.url.split("?")[0]))
    page.goto(f"{exported}find/")
    return page


def test_the_browser_and_the_server_find_the_same(static_page, catalogue):
    def no_embedding(word):
        raise UserError(f"no embedding for {word}")

    latents = {cell.name: cell_data(catalogue, cell.name) for cell in catalogue.cells}
    answers = static_page.evaluate(ASK, [index_data(catalogue), latents, QUERIES])
    for asked, answer in zip(QUERIES, answers, strict=True):
        found = find(catalogue, Query.of(asked), no_embedding)
        expected = [
            [
                catalogue.cell_of(row).name,
                int(catalogue.latents[row]),
                catalogue.labels[catalogue.entry_labels[entry]] if entry >= 0 else "",
            ]
            for row, entry in zip(found.rows, found.entries, strict=True)
        ]
        assert answer == expected, asked


def test_an_exported_study_is_searched_sorted_and_turned_over(static_page):
    page = static_page
    page.get_by_label("Search").fill("fish")
    page.get_by_role("button", name="Find").click()
    labels = page.locator("#answer tbody tr td:nth-child(3)")
    page.locator("p.answer", has_text="26 latents").wait_for()
    assert set(labels.all_text_contents()) == {"fish"}
    page.get_by_role("link", name="IoU").click()
    page.wait_for_selector("th[aria-sort=descending]")
    ious = [float(text) for text in page.locator("tbody tr td:nth-child(5)").all_text_contents()]
    assert ious == sorted(ious, reverse=True)
    page.get_by_role("link", name="Clear").click()
    page.get_by_label("dead").select_option("no")
    page.get_by_role("button", name="Find").click()
    page.get_by_role("link", name="Next page").click()
    page.locator("p.answer", has_text="page 2 of 3").wait_for()
    assert page.locator("#answer tbody tr").count() == 50


def test_a_latent_is_found_and_opened_without_scripts(browser, exported):
    context = browser.new_context(base_url=exported, java_script_enabled=False)
    page = context.new_page()
    page.goto("find/?q=fish&sort=-iou")
    assert page.locator("tbody tr").count() == 26
    page.locator("tbody a").first.click()
    assert page.locator("h1").text_content().startswith("Latent ")
    page.wait_for_load_state("load")  # its pictures too
    assert page.locator(".tops img").first.evaluate("image => image.naturalWidth") == 16
    context.close()


def test_maps_can_be_hidden_and_the_histogram_says_why_there_is_none(page, exported):
    page.goto(f"{exported}latents/mid-t0.50-cond-k10/1/")
    heat = page.locator(".heat").first
    assert heat.evaluate("image => getComputedStyle(image).visibility") == "visible"
    page.get_by_label("show maps").uncheck()
    assert heat.evaluate("image => getComputedStyle(image).visibility") == "hidden"
    assert "unknown stream" in page.locator("main").text_content()
