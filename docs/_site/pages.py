"""The pages of the site that are made and not written (a hook of mkdocs): the configuration, the
models, and one API page for every package that the navigation names.
"""

from __future__ import annotations

import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))
from configuration import configuration_page
from models import models_page

CONF = Path(__file__).parents[2] / "conf"
API = "reference/api/"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the made pages to those that were found in docs/."""
    pages = {
        "reference/configuration.md": configuration_page(CONF),
        "reference/models.md": models_page(CONF),
    }
    for path in named(config.nav):
        if path.startswith(API):
            package = path.removeprefix(API).removesuffix(".md")
            pages[path] = f"# `diffusae.{package}`\n\n::: diffusae.{package}\n"
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


def named(nav: object) -> list[str]:
    """The paths that a navigation names."""
    if isinstance(nav, str):
        return [nav]
    items = nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else []
    return [path for item in items for path in named(item)]
