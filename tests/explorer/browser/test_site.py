"""A deep link into a site of files, in a browser."""

from explorer.test_export import FIRST, address, site  # noqa: F401 - fixtures


def test_a_deep_link_of_the_site_opens_with_its_scripts_and_styles(browser, address):  # noqa: F811
    context = browser.new_context()
    page = context.new_page()
    faults: list[str] = []
    page.on("console", lambda said: said.type == "error" and faults.append(said.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(f"{address}compare/{FIRST}/down-t0.50-cond-k4/#partners")
    # report.js makes the tables sortable, and vega draws without a server's help.
    assert page.locator("#partners table th").first.get_attribute("tabindex") == "0"
    page.locator("#partners .chart svg").wait_for()
    page.select_option("select[name=second]", FIRST)
    page.select_option("select[name=first]", "down-t0.50-cond-k4")
    page.goto(f"{address}find/")
    page.get_by_role("link", name="Charts").click()
    assert page.url == f"{address}charts/"
    assert not faults, faults
    context.close()
