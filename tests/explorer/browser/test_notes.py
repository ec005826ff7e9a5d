"""Bookmarks, names and notes of a latent, as a user makes them in the browser."""

import pytest

from diffusae.explorer.notes import Note, Notes

LATENT = "latents/down-t1.00-cond-k4/3/"


@pytest.fixture
def notes(explored, tmp_path, monkeypatch) -> Notes:
    """Notes of this test alone."""
    own = Notes.of_study(tmp_path)
    monkeypatch.setitem(vars(explored), "notes", own)
    return own


def test_a_latent_is_bookmarked_and_named_and_stands_on_the_start_page(page, notes):
    page.goto(LATENT)
    page.get_by_role("button", name="Bookmark").click()
    page.get_by_label("Your name for it").fill("red <b>fish</b>")
    page.get_by_label("Note", exact=True).fill("two\nlines")
    page.get_by_label("Note", exact=True).blur()
    page.get_by_text("Saved in").wait_for()
    page.wait_for_function("() => !document.querySelector('.said').textContent.includes('Saving')")
    page.goto("./")
    page.get_by_role("link", name="red <b>fish</b>").click()
    page.wait_for_url(f"**/{LATENT}")
    assert page.get_by_label("Note", exact=True).input_value() == "two\nlines"
    assert page.get_by_role("button", name="Bookmark").get_attribute("aria-pressed") == "true"
    assert notes.of("down-t1.00-cond-k4", 3) == Note(True, "red <b>fish</b>", "two\nlines")


def test_a_change_from_elsewhere_is_shown_before_it_is_replaced(browser, address, notes):
    context = browser.new_context(base_url=address)  # its console tells of the answer 409
    page = context.new_page()
    page.goto(LATENT)
    Notes(notes.path).change("down-t1.00-cond-k4", 3, "name", "trout", was="")
    name = page.get_by_label("Your name for it")
    name.fill("fish")
    name.blur()
    page.get_by_text("It is now: trout").wait_for()
    assert notes.of("down-t1.00-cond-k4", 3).name == "trout"
    name.fill("red fish")
    name.blur()
    page.get_by_text("Saved in").wait_for()
    assert notes.of("down-t1.00-cond-k4", 3).name == "red fish"
    context.close()
