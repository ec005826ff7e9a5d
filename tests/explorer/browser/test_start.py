"""The start page in a browser."""


def test_the_start_page_shows_the_cells_and_its_scripts_run(page):
    page.goto("./")
    assert page.locator("table.cells a").all_text_contents() == ["cond", "cond", "cond"]
    assert page.get_by_role("button", name="Copy").is_visible()  # shell.js shows it
    # The page's own styles are there: the content policy lets them in.
    assert page.locator("header.bar").evaluate("e => getComputedStyle(e).position") == "sticky"
