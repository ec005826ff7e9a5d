"""Every link between the pages leads somewhere, and every page is in the navigation."""

from pathlib import Path

import pytest
import yaml

from .pages import DOCS, MADE, PAGES, ROOT, anchors, links

SITE = ROOT / "mkdocs.yml"


class _Loader(yaml.SafeLoader):
    """Reads mkdocs.yml, in which `!!python/name:` may name functions, as plain data."""


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
    nav = yaml.load(SITE.read_text(encoding="utf-8"), _Loader)["nav"]
    listed = [path for part in nav for path in paths(part)]
    written = {page.relative_to(DOCS).as_posix() for page in PAGES if page.is_relative_to(DOCS)}
    made = {path for path in listed if path.startswith("reference/")}
    assert len(listed) == len(set(listed))
    assert set(listed) - made == written


def test_the_navigation_has_five_parts():
    nav = yaml.load(SITE.read_text(encoding="utf-8"), _Loader)["nav"]
    assert [next(iter(part)) for part in nav] == [
        "Start", "How-to", "Concepts", "Reference", "Results",
    ]  # fmt: skip


def paths(nav: object) -> list[str]:
    """The paths that a part of the navigation names."""
    if isinstance(nav, str):
        return [nav]
    items = nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else []
    return [path for item in items for path in paths(item)]
