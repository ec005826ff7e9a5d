"""The page "steer" in a browser, with pictures by hand (`fake_jobs.py`)."""

import json

import pytest
from playwright.sync_api import Page, expect

from explorer.browser.fake_jobs import FakeJobs

CELL = "down-t1.00-cond-k4"
NO_FEATURES = "the annotator gives no features"


@pytest.fixture
def steering(fake_page: Page) -> Page:
    """The page with one edit, of a concept."""
    fake_page.goto("steer/#prompt=a+red+fish")
    fake_page.get_by_label("What").fill("fish")
    fake_page.get_by_role("button", name="Add edit").click()
    return fake_page


def stroke(page: Page, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Draw with the pointer between the middles of two cells, (row, column), of 16 x 16."""
    page.evaluate("scrollTo(0, 0)")
    box = page.locator("#brush").bounding_box()
    assert box is not None
    for (row, column), press in ((start, page.mouse.down), (end, page.mouse.up)):
        x, y = (column + 0.5) / 16 * box["width"], (row + 0.5) / 16 * box["height"]
        page.mouse.move(box["x"] + x, box["y"] + y, steps=3)
        press()


def generate(page: Page) -> None:
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#job-status")).to_have_text("Done.")


def painted(place: dict) -> list[list[int]]:
    """The cells of a painted place, [row, column]."""
    assert (place["height"], place["width"]) == (16, 16)
    return [[r, c] for r, row in enumerate(place["rows"]) for c, x in enumerate(row) if x == "1"]


def test_a_stroke_paints_the_region_of_the_edit_without_gaps(steering: Page, jobs: FakeJobs):
    steering.locator("#size").fill("1")
    stroke(steering, (2, 3), (2, 7))
    generate(steering)
    (edit,) = jobs.orders[-1]["edits"]
    assert painted(edit.pop("region")) == [[2, column] for column in range(3, 8)]
    assert edit == {
        "cell": CELL,
        "concept": "fish",
        "window": [1, 0.6],
        "intervention": "spatial",
        "strength": 3,
    }


def test_keys_paint_erase_and_undo(steering: Page, jobs: FakeJobs):
    steering.locator("#size").fill("1")
    brush = steering.locator("#brush")
    for key in ("Space", "ArrowLeft", "Space"):  # the brush begins in the middle
        brush.press(key)
    steering.get_by_label("Erase").check()
    brush.press("Space")
    brush.press("Control+z")
    generate(steering)
    assert painted(jobs.orders[-1]["edits"][0]["region"]) == [[8, 7], [8, 8]]
    steering.locator("body").press("Control+Shift+Z")
    generate(steering)
    assert painted(jobs.orders[-1]["edits"][0]["region"]) == [[8, 8]]


def test_a_drag_takes_what_is_painted_from_its_place_to_another(steering: Page, jobs: FakeJobs):
    steering.locator("#size").fill("1")
    stroke(steering, (2, 3), (2, 5))
    steering.get_by_label("Drag an object").check()
    stroke(steering, (2, 4), (9, 8))  # 7 down, 4 to the right
    generate(steering)
    (edit,) = jobs.orders[-1]["edits"]
    assert painted(edit["source"]) == [[2, 3], [2, 4], [2, 5]]
    assert painted(edit["region"]) == [[9, 7], [9, 8], [9, 9]]
    steering.locator("#edit-0-outside").select_option("keep")  # it stays where it was, too
    generate(steering)
    (edit,) = jobs.orders[-1]["edits"]
    assert edit["outside"] == "keep" and "source" not in edit


def test_the_list_of_edits_is_ordered_switched_and_shortened(steering: Page, jobs: FakeJobs):
    steering.locator("#edit-0-region").select_option("top_left")
    steering.get_by_label("What").fill("3, 7")
    steering.get_by_role("button", name="Add edit").click()
    steering.locator("#edit-1-intervention").select_option("ablate")
    steering.locator("#edit-1-region").select_option("")
    steering.get_by_role("button", name=f"earlier: latents 3, 7 in {CELL}").click()
    generate(steering)
    first, second = jobs.orders[-1]["edits"]
    assert first == {
        "cell": CELL,
        "latents": [3, 7],
        "window": [1, 0.6],
        "intervention": "ablate",
        "strength": 1,
    }
    assert second["region"] == "top_left"
    steering.locator("#edit-0-on").uncheck()
    generate(steering)
    assert [edit.get("latents") for edit in jobs.orders[-1]["edits"]] == [None]
    steering.get_by_role("button", name="remove fish").click()
    assert steering.locator("#edits li").count() == 1


def test_an_edit_without_a_place_is_left_out_and_says_so(steering: Page, jobs: FakeJobs):
    expect(steering.locator("#edits .note")).to_contain_text("Nothing is painted yet")
    generate(steering)
    assert jobs.orders[-1]["kind"] == "look"  # without an edit, the picture itself
    assert steering.locator("#picture").is_visible()


def test_a_row_of_seeds_shows_before_and_after_beside_random_latents(steering: Page):
    steering.locator("#edit-0-region").select_option("top")
    steering.get_by_label("Seeds in a row").select_option("2")
    generate(steering)
    assert steering.locator("#results h3").all_inner_texts() == ["Seed 0", "Seed 1"]
    table = steering.locator("#results table").first
    assert [row.split("\t") for row in table.locator("tr").all_inner_texts()[1:]] == [
        ["fish: share of the picture", "0.5", "0.25", "0.125"],
        ["fish: moved, in sides of the picture", "0", "0.25", "0.125"],
        ["tone", "day", "night", "night"],
        ["likeness to before (SSIM)", "1", "0.812", "0.9"],
        ["distance from before in the annotator’s features", "0", *2 * [NO_FEATURES]],
        [f"edit 1 {CELL}: length of its updates, times the length before", "1", "1.5", "1.25"],
        [f"edit 1 {CELL}: percentile of its lengths among held-out updates", "50", "90", "75"],
    ]
    slider = steering.get_by_label("before and after, seed 1")
    slider.fill("20")
    after = steering.get_by_alt_text("after the edits, seed 1")
    assert after.evaluate("e => e.style.clipPath") == "inset(0px 0px 0px 20%)"


def test_the_download_is_the_servers_text(steering: Page):
    steering.locator("#edit-0-region").select_option("top")
    generate(steering)
    with steering.expect_download() as download:
        steering.get_by_role("link", name="Download the edits").click()
    assert download.value.path().read_text() == "prompt: a red fish\n"


def test_the_link_gives_prompt_seeds_and_edits_back(steering: Page, jobs: FakeJobs):
    stroke(steering, (2, 3), (4, 6))
    steering.locator("#prompt").fill("a boat & a <b>star</b>")
    steering.locator("#seed").fill("7")
    generate(steering)
    before = jobs.orders[-1]
    link = steering.url
    steering.goto("about:blank")
    steering.goto(link)
    generate(steering)
    assert jobs.orders[-1] == before


def test_a_link_to_a_latent_begins_an_edit_of_it(fake_page: Page):
    fake_page.goto(f"steer/#prompt=a+cat&seed=3&cell={CELL}&latents=7")
    assert fake_page.locator("#edits b").inner_text() == f"1. latent 7 in {CELL}"
    assert fake_page.locator("#prompt").input_value() == "a cat"


def test_a_link_that_cannot_be_read_says_so_and_the_page_works(fake_page: Page):
    fake_page.goto("steer/#edits=" + json.dumps([{"cell": CELL, "evil": 1}]).replace(" ", ""))
    expect(fake_page.locator("#problem")).to_contain_text("evil is not what an edit can have")
    fake_page.get_by_label("What").fill("fish")
    fake_page.get_by_role("button", name="Add edit").click()
    assert fake_page.locator("#edits li").count() == 1


def test_cancel_stops_the_generation_and_an_error_is_said(fake_page: Page, jobs: FakeJobs):
    fake_page.goto("steer/#prompt=a+cat")
    jobs.pause = 0.5
    fake_page.get_by_role("button", name="Generate").click()
    expect(fake_page.locator("#job-status")).to_contain_text("Step 1 of 6")
    fake_page.get_by_role("button", name="Cancel").click()
    expect(fake_page.locator("#job-status")).to_contain_text("Cancelled")
    assert jobs.cancelled == [f"j{len(jobs.orders)}"]
    assert fake_page.get_by_role("button", name="Generate").is_enabled()
