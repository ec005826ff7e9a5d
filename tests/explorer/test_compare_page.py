"""Two cells, and two studies, side by side."""

import shutil

import pytest
from starlette.testclient import TestClient

import diffusae
from diffusae.evaluation.result import Estimate, Result
from diffusae.explorer.app import build_app
from diffusae.explorer.compared import Figure, Side, label_groups, labels_of, partners_of
from diffusae.explorer.explored import Explored
from diffusae.explorer.security import Security

BROWSER = {"accept": "text/html"}
FIRST, SECOND = "down-t1.00-cond-k4", "down-t0.50-cond-k4"


def figure(*values, higher_is_better=True):
    rows = [
        None if v is None else Result("iou", Estimate(v, (v - 0.1, v + 0.1), 9), True, "IoU")
        for v in values
    ]
    return Figure("iou", "IoU", higher_is_better, (rows[0], rows[1]))


def test_the_better_side_is_the_one_whose_difference_leaves_out_zero():
    assert figure(0.7, 0.2).better == 0
    assert figure(0.2, 0.7).better == 1
    assert figure(0.2, 0.7, higher_is_better=False).better == 0
    assert figure(0.5, 0.45).better is None
    assert figure(0.5, None).better is None


def test_labels_stand_where_they_are_had(explored):
    sides = [explored.cells[name].dictionary for name in (FIRST, SECOND)]
    groups = {title: labels for title, _, labels in label_groups(labels_of(sides))}
    assert [one.label for one in groups["Both have"]] == ["background", "fish"]
    fish = groups["Both have"][1]
    assert (fish.latents[0], fish.latents[1]) == ([3, 7], [5])
    alone = label_groups(labels_of([sides[0], None]))
    assert [len(labels) for _, _, labels in alone] == [2, 0, 0]


def test_a_cell_beside_itself_has_every_latent_as_its_own_partner(explored):
    side = Side(FIRST, explored.cells[FIRST], explored, True)
    partners, cosines = partners_of(side, side, [side.dictionary(), None])
    assert all(one.latent == one.partner for one in partners)
    assert cosines == pytest.approx([1.0] * 64, abs=1e-3)
    # Labelled latents come first.
    assert {one.latent for one in partners[:3]} == {3, 7, 9}


def test_the_page_of_two_cells_links_to_their_latents(client):
    page = client.get(f"/compare/{FIRST}/{SECOND}/", headers=BROWSER).text
    assert f'href="../../../latents/{FIRST}/3/"' in page
    assert f'href="../../../latents/{SECOND}/5/"' in page
    assert "Neither cell was evaluated" in page


def test_blocks_of_other_widths_have_no_partners_and_say_why(client):
    page = client.get(f"/compare/{FIRST}/mid-t0.50-cond-k4/", headers=BROWSER)
    assert page.status_code == 200
    assert "cannot be compared; give SAEs of blocks of one width" in page.text
    assert "mid-t0.50-cond-k4 has no labels yet" in page.text


def test_the_choice_of_two_cells_leads_to_their_page(client):
    answer = client.get(
        f"/compare/?first={FIRST}&second={SECOND}", headers=BROWSER, follow_redirects=False
    )
    assert answer.status_code == 303
    assert client.get(f"/compare/{answer.headers['location']}").status_code == 200


@pytest.mark.parametrize("address", ["nope/down-t0.50-cond-k4", f"{FIRST}/nope", "..%2f/x"])
def test_an_unknown_cell_is_answered_with_those_that_there_are(client, address):
    answer = client.get(f"/compare/{address}/")
    assert answer.status_code == 404


def test_cells_of_another_study_stand_beside_those_of_the_first(directory, tmp_path):
    other = tmp_path / directory.name
    shutil.copytree(directory, other)
    explored = Explored(diffusae.open(directory), [diffusae.open(other)])
    assert list(explored.against) == ["tiny2"]
    client = TestClient(build_app(explored, Security("127.0.0.1")), base_url="http://127.0.0.1")
    page = client.get(f"/compare/{FIRST}/{FIRST}@tiny2/", headers=BROWSER).text
    assert f"{FIRST}@tiny2" in page
    assert 'href="../../../compare/studies/"' in page
    # A study without results of the three questions cannot be compared as a whole.
    answer = client.get("/compare/studies/", headers=BROWSER)
    assert answer.status_code == 400 and "run the study first" in answer.text


def test_one_study_alone_says_how_another_is_opened(client):
    answer = client.get("/compare/studies/")
    assert answer.status_code == 404 and "against=DIRECTORY" in answer.json()["error"]
