"""The page "look" in a browser, with pictures and codes by hand (`fake_jobs.py`)."""

import pytest
from playwright.sync_api import Page, expect

CELL, OTHER = "down-t1.00-cond-k4", "mid-t0.50-cond-k4"


@pytest.fixture
def looking(fake_page: Page) -> Page:
    """The page after its picture was made."""
    fake_page.goto("look/")
    fake_page.get_by_label("Prompt", exact=True).fill("a red fish")
    fake_page.get_by_role("button", name="Generate").click()
    expect(fake_page.locator(".noun")).to_have_count(2)
    return fake_page


def latents(page: Page) -> list[str]:
    return page.locator("#active .latent").all_inner_texts()


def test_keys_move_the_position_and_the_strongest_latent_comes_first(looking: Page):
    looking.locator("#layers").press("ArrowRight")  # the first key goes to the first position
    # Latent 7 has the value 3 there and latent 3 the value 2; both are fishes.
    assert [text.split() for text in latents(looking)] == [["7", "fish", "3"], ["3", "fish", "2"]]
    looking.locator("#layers").press("ArrowDown")  # to position 16, where latent 3 has 0.16
    assert [text.split() for text in latents(looking)] == [["3", "fish", "0.16"]]
    expect(looking.locator("#status")).to_contain_text("Row 2, column 1: 1 active latents. 3 fish")


def test_a_click_chooses_the_position_under_the_pointer(looking: Page):
    looking.evaluate("scrollTo(0, 0)")
    box = looking.locator("#layers").bounding_box()
    assert box is not None
    looking.mouse.click(box["x"] + box["width"] * 2.5 / 16, box["y"] + box["height"] * 1.5 / 16)
    expect(looking.locator("#where")).to_have_text("Row 2, column 3: 1 active latents")


def test_the_map_of_a_latent_follows_the_focus_and_stays_after_a_click(looking: Page):
    looking.locator("#layers").press("ArrowRight")
    seven = looking.locator('#active [data-latent="7"]')
    seven.focus()
    expect(looking.locator("#mapped")).to_contain_text(
        "latent 7 fish: active at 1 of 256 positions"
    )
    seven.blur()
    expect(looking.locator("#mapped")).to_contain_text("Move over a latent")
    seven.click()
    looking.locator("#prompt").hover()
    expect(looking.locator("#mapped")).to_contain_text("latent 7")


def test_the_link_gives_picture_cell_position_and_latent_back(looking: Page):
    looking.locator("#scrub").press("ArrowRight")  # to t = 0.5 of the same block
    looking.locator("#layers").press("ArrowRight")
    looking.locator('#active [data-latent="7"]').click()
    link = looking.url
    assert link.endswith("#prompt=a+red+fish&seed=0&cell=down-t0.50-cond-k4&at=0%2C0&latent=7")
    looking.goto("about:blank")
    looking.goto(link)
    expect(looking.locator("#mapped")).to_contain_text("Map of latent 7")
    assert looking.locator("#where").inner_text() == "Row 1, column 1: 2 active latents"


def test_another_block_keeps_the_place_in_the_picture_and_says_that_it_has_no_labels(looking: Page):
    looking.goto("about:blank")
    looking.goto(f"look/#prompt=a+red+fish&cell={CELL}&at=15,5")
    expect(looking.locator("#where")).to_contain_text("Row 16, column 6")
    looking.locator(f'[data-cell="{OTHER}"]').click()
    expect(looking.locator("#where")).to_contain_text("Row 8, column 3")  # of 8 x 8 positions
    expect(looking.locator("#composition-note")).to_contain_text(
        "is not labelled, so it predicts nothing"
    )


def test_nouns_of_a_strangers_study_are_shown_as_text(looking: Page):
    assert looking.locator(".noun").all_inner_texts() == ["fish 0.938", "<b>cat</b> 0.1"]
    assert looking.locator("#composition b").count() == 0
