"""The pages "look" and "steer" as the server gives them."""

import pytest
from omegaconf import OmegaConf
from starlette.testclient import TestClient

from diffusae.explorer.explored import Explored
from diffusae.explorer.look_page import Strip
from diffusae.explorer.steer_page import choices_of, painted_grid

PAGES = ("/look/", "/steer/")


def test_the_strip_has_a_row_for_a_block_and_branch_and_a_column_for_a_moment(explored: Explored):
    strip = Strip.of(explored.cells.values())
    shown = {row.name: [cell and cell.name for cell in row.cells] for row in strip.rows}
    assert strip.times == [1.0, 0.5]
    assert shown == {
        "down cond": ["down-t1.00-cond-k4", "down-t0.50-cond-k4"],
        "mid cond": [None, "mid-t0.50-cond-k4"],
    }
    assert strip.first == "down-t1.00-cond-k4"


def test_labels_of_a_cell_are_given_by_latent(client: TestClient):
    answer = client.get("/look/labels/down-t1.00-cond-k4.json").json()
    assert answer["labels"] == {"3": ["fish"], "7": ["fish"], "9": ["background"]}
    assert client.get("/look/labels/mid-t0.50-cond-k4.json").json()["labels"] == {}
    assert client.get("/look/labels/nowhere.json").status_code == 404


def test_edits_are_offered_with_the_window_of_their_cell(explored: Explored):
    choices = choices_of(explored)
    assert choices["cells"]["down-t1.00-cond-k4"] == {"window": (1.0, 0.6)}
    assert choices["cells"]["down-t0.50-cond-k4"] == {"window": (0.6, 0.2)}
    assert (choices["grid"], choices["layers"]) == ((16, 16), {})  # latents of 16 x 16


@pytest.mark.parametrize(
    ("model", "grid"),
    [
        ({"height": 512, "width": 768, "latent_scale": 8}, (21, 32)),
        ({"height": 64, "width": 64, "latent_scale": 4}, (16, 16)),
        ({"height": None, "width": None, "latent_scale": None}, (32, 32)),
        ({"height": 64, "width": 4096, "latent_scale": 8}, (1, 32)),
    ],
)
def test_the_painted_grid_has_the_form_of_the_picture(model: dict, grid: tuple[int, int]):
    assert painted_grid(OmegaConf.create(model)) == grid


@pytest.mark.parametrize("page", PAGES)
def test_pages_hold_no_script_and_no_style_of_their_own(page: str, client: TestClient):
    text = client.get(page).text
    assert " style=" not in text and "onclick" not in text and "<style" not in text
    for script in text.split("<script")[1:]:
        assert " src=" in script.split(">")[0] or "application/json" in script.split(">")[0]


@pytest.mark.parametrize("page", PAGES)
def test_without_a_model_the_pages_say_why_and_generate_nothing(
    page: str, client: TestClient, explored: Explored, monkeypatch: pytest.MonkeyPatch
):
    assert 'id="generate">' in client.get(page).text
    monkeypatch.setattr(explored.generation, "reason", "the model is not at <i>/models</i>.")
    text = client.get(page).text
    assert "the model is not at &lt;i&gt;/models&lt;/i&gt;. Everything else" in text
    assert 'id="generate" disabled>' in text


@pytest.mark.parametrize("page", PAGES)
def test_a_static_copy_says_that_the_explorer_is_needed(
    page: str, client: TestClient, explored: Explored, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(explored, "static", True)
    text = client.get(page).text
    assert "this page needs the explorer itself" in text and "<form" not in text


def test_a_study_without_pictures_says_so(client: TestClient):
    assert "the collection is not finished" in client.get("/look/").text
    assert client.get("/look/pictures.json").status_code == 400
    assert client.get("/look/pictures.json?from=-1").json()["error"].startswith("from='-1' must")
