"""Pages, errors and static files of the explorer."""

from html.parser import HTMLParser

import pytest

BROWSER = {"accept": "text/html,*/*"}


class Links(HTMLParser):
    """Every href and src of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found += [value or "" for name, value in attrs if name in ("href", "src")]


def test_the_start_page_has_a_row_a_block_and_a_column_a_moment_from_t_1_down(client):
    page = client.get("/", headers=BROWSER).text
    assert page.index("t = 1.00") < page.index("t = 0.50")
    assert page.index('<th scope="row">down') < page.index('<th scope="row">mid')
    hrefs = [link for link in Links(page).found if link.startswith("cells/")]
    assert hrefs == [f"cells/{c}-cond-k4/" for c in ("down-t1.00", "down-t0.50", "mid-t0.50")]


def test_every_link_of_every_page_is_relative(client):
    for address in ("/", "/cells/none/", "/a/b/c/"):
        links = Links(client.get(address, headers=BROWSER).text).found
        assert len(links) > 3
        assert not [link for link in links if link.startswith("/") or ":" in link]


def test_styles_and_scripts_of_a_deep_page_are_found_from_there(client):
    page = client.get("/a/b/c/", headers=BROWSER)
    assert page.status_code == 404
    for link in Links(page.text).found:
        if "static/" in link:
            assert client.get(f"http://127.0.0.1/a/b/c/{link}").status_code == 200, link


def test_an_unknown_address_is_a_page_for_a_browser_and_json_for_a_program(client):
    page, data = client.get("/nowhere/", headers=BROWSER), client.get("/nowhere/")
    assert page.status_code == data.status_code == 404
    assert "There is no page /nowhere/" in page.text
    assert data.json() == {"error": "there is no page /nowhere/"}


def test_an_address_with_html_in_it_is_shown_as_text(client):
    page = client.get("/<script>alert(1)</script>/", headers=BROWSER).text
    assert "<script>alert" not in page and "&lt;script&gt;alert(1)" in page


@pytest.mark.parametrize(
    "name", ["..%2f..%2fapp.py", "app.py", "%2fetc%2fpasswd", "explorer.css%00"]
)
def test_only_listed_static_files_are_given(client, name):
    assert client.get(f"/static/{name}").status_code == 404
