"""Every link between the pages leads somewhere, and every page is in the navigation."""

import re
from pathlib import Path

import pytest
import yaml

from .pages import DOCS, MADE, PAGES, ROOT, anchors, links

SITE = ROOT / "mkdocs.yml"


def text_of(page: Path) -> str | None:
    if page in MADE:
        return MADE[page]
    return page.read_text(encoding="utf-8") if page.is_file() and page.suffix == ".md" else None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_and_anchor_resolves(page: Path):
    broken = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        text = text_of(target)
        exists = text is not None or target.is_file()
        if not exists or (anchor and anchor not in anchors(text or "")):
            broken.append(link)
    assert not broken


def test_anchors_are_those_of_the_site():
    assert anchors("## activations/\n### `sae=topk` { #sae-topk }\n## `sae/<cell>/`") == {
        "activations", "sae-topk", "saecell",
    }  # fmt: skip


def test_every_page_is_in_the_navigation_once():
    listed = re.findall(r"[\w/-]+\.md", SITE.read_text(encoding="utf-8"))
    written = {page.relative_to(DOCS).as_posix() for page in PAGES if page.is_relative_to(DOCS)}
    assert len(listed) == len(set(listed))
    made = {page.relative_to(DOCS).as_posix() for page in MADE}
    assert {path for path in listed if not path.startswith("reference/api/")} - made == written


def test_the_navigation_has_five_parts():
    nav = yaml.safe_load(SITE.read_text(encoding="utf-8"))["nav"]
    parts = [next(iter(part)) for part in nav]
    assert parts == ["Start", "How-to", "Concepts", "Reference", "Results"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_source_file_that_a_page_names_exists(page: Path):
    named = re.findall(r"`((?:[\w.-]+/)*\w+\.py)`", page.read_text(encoding="utf-8"))
    roots = (ROOT, ROOT / "src", ROOT / "src/diffusae")
    assert [path for path in named if not any((root / path).exists() for root in roots)] == []
