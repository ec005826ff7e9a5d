"""Links of pages that are written to files."""

from pathlib import PurePosixPath

import pytest

from diffusae.explorer.static_links import address_of, file_of, links_in, redirected

PAGE = "/cells/mid-t0.50-cond-k10/"


def test_a_relative_link_leads_to_its_address_without_query_and_fragment():
    assert address_of(PAGE, "../../latents/mid/7/?q=1#maps") == "/latents/mid/7/"
    assert address_of("/", "find/?q=fish") == "/find/"


@pytest.mark.parametrize("link", ["https://a.org/x", "//a.org/x", "#maps", "?q=1", "data:,x"])
def test_links_out_of_the_site_and_within_the_page_have_no_address(link):
    assert address_of(PAGE, link) is None


def test_links_are_found_in_attributes_only_and_unescaped():
    text = '<a href="../a&amp;b/">href="no/"</a><img alt="x" src="1.png"><b data-href="no/">'
    assert list(links_in(PAGE, text)) == ["/cells/a&b/", PAGE + "1.png"]


def test_a_link_to_what_is_not_there_leads_to_the_page_that_says_so():
    text = '<a href="../../latents/a/7/">7</a> <a class="x" href="../../latents/a/8/#t">8</a>'
    kept = redirected(PAGE, text, lambda address: address == "/latents/a/7/")
    assert kept == text.replace("../../latents/a/8/#t", "../../left-out/")


@pytest.mark.parametrize(
    ("address", "file"),
    [("/", "index.html"), (PAGE, "cells/mid-t0.50-cond-k10/index.html"),
     ("/find/data.json", "find/data.json"), ("/cells/a%20b/", "cells/a b/index.html")],
)  # fmt: skip
def test_an_address_has_the_file_that_a_plain_server_gives_for_it(address, file):
    assert file_of(address) == PurePosixPath(file)


@pytest.mark.parametrize("address", ["/..", "/%2e%2e/a/", "/a%2fb", "//a", "/a%00b", "/a%5cb"])
def test_an_address_that_could_leave_the_site_has_no_file(address):
    assert file_of(address) is None
