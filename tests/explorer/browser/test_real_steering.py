"""From a latent to a steered picture, with the shipped miniature's model."""

import pytest
import torch
import yaml
from playwright.sync_api import Page, expect

from exploring.tiny_study import ByHand

CELL = "down-t1.00-cond-k4"


@pytest.fixture(autouse=True)
def words(explored):
    """The page asks for the composition, by the embedding that the tiny study was labelled with."""
    looking = vars(explored.generation.looking)
    looking.update(_words=ByHand(), _vectors=(["star", "fish"], torch.eye(2)))
    yield
    del looking["_words"], looking["_vectors"]


def test_a_latent_is_painted_generated_exported_and_given_back_by_the_link(page: Page):
    page.set_default_timeout(60_000)  # the model is loaded meanwhile
    page.goto("look/#prompt=a+red+fish&seed=1&at=8,8")
    page.locator("#active li").first.get_by_role("link", name="steer").click(timeout=60_000)
    expect(page.locator("#edits b")).to_contain_text(f"in {CELL}")
    page.locator("#brush").press("Space")
    page.locator("#brush").press("ArrowLeft")
    page.locator("#brush").press("Space")
    page.get_by_role("button", name="Undo").click()
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#job-status")).to_have_text("Done.", timeout=60_000)
    with page.expect_download() as download:
        page.get_by_role("link", name="Download the edits").click()
    text = download.value.path().read_text()
    exported = yaml.safe_load(text)
    assert (exported["prompt"], exported["picture_seed"]) == ("a red fish", 1)
    assert exported["edits"][0]["region"]["rows"][8][8] == "1"  # where the brush began
    after = page.get_by_alt_text("after the edits, seed 1")
    pixels = after.screenshot()
    link = page.url
    page.goto("about:blank")
    page.goto(link)
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#job-status")).to_have_text("Done.", timeout=60_000)
    assert after.screenshot() == pixels
