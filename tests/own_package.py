"""The package of docs/extending.md, written to a folder from the page itself."""

import re
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diffusae import plugins

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"
_BLOCK = re.compile(r'^```\w+ title="([^"]+)"\n(.*?)^```$', re.M | re.S)


def write_package(folder: Path, *, installed: bool = True) -> Path:
    """Write the package `mine`; `installed` adds what an installation leaves beside it."""
    files = dict(_BLOCK.findall(PAGE.read_text(encoding="utf-8")))
    project = tomllib.loads(files.pop("pyproject.toml"))["project"]
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    if installed:
        (folder / "mine" / "__init__.py").write_text("")
        metadata = folder / f"{project['name']}-{project['version']}.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
        )
        lines = []
        for group, offered in project["entry-points"].items():
            lines += [f"[{group}]", *(f"{name} = {value}" for name, value in offered.items())]
        (metadata / "entry_points.txt").write_text("\n".join(lines))
    return folder


@contextmanager
def known(folder: Path) -> Iterator[None]:
    """Python finds the packages in a folder, and diffusae knows none from before."""
    before = dict(plugins._used)
    sys.path.insert(0, str(folder))
    plugins._installed.cache_clear()
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        plugins._installed.cache_clear()
        plugins._used.clear()
        plugins._used.update(before)
        for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
            del sys.modules[name]
