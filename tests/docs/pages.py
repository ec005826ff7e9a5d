"""The written pages of the project, and what they link to."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]

sys.path.insert(0, str(DOCS / "_site"))
from configuration import configuration_page  # noqa: E402
from models import models_page  # noqa: E402

MADE = {
    DOCS / "reference/configuration.md": configuration_page(ROOT / "conf"),
    DOCS / "reference/models.md": models_page(),
}
"""Pages that exist only in the site."""
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def prose(text: str) -> str:
    """A page without its code."""
    return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)


def links(page: Path) -> list[str]:
    """Where a page links to inside the project."""
    links = LINK.findall(prose(page.read_text(encoding="utf-8")))
    return [link for link in links if "://" not in link]


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as the site and code forges make them."""
    names: list[str] = []
    for line in re.sub(r"```.*?```", "", text, flags=re.DOTALL).splitlines():
        if heading := re.match(r"#+ (.*?)(?: \{ #(\S+) \})?$", line):
            plain = re.sub(r"[^\w\s-]", "", heading[1]).strip().lower()
            names.append(heading[2] or re.sub(r"[-\s]+", "-", plain))
    return set(names)
