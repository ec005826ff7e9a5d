"""Catalogue: the autoencoders that repositories hold, with the figures of their cards."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from omegaconf import DictConfig
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from diffusae.errors import UserError
from diffusae.hub.repository import HubRepository, HubUnreachable, LocalRepository
from diffusae.hub.settings import CatalogueSettings, HubSettings
from diffusae.report.published import Published, in_words, published_in

log = logging.getLogger(__name__)

WIDTH = 140
_SERVES = (
    "a directory with copies would serve: catalogue.repos=[DIRECTORY], with a folder for each SAE"
    " that holds its cfg.json and README.md"
)


def catalogue(cfg: DictConfig) -> None:
    """Print one row a published SAE.

    Raises:
        UserError: no repository could be read.
    """
    settings = CatalogueSettings.of(cfg)
    chosen = {"model": settings.model, "block": settings.block, "t": settings.t}
    found = [entry for entry in _of_all(settings) if entry.fits(**chosen)]
    if settings.format == "json":
        print(json.dumps([asdict(entry) for entry in found], indent=2))
    else:
        _print_table(found)


def _of_all(settings: CatalogueSettings) -> list[Published]:
    """The entries of all repositories that can be read; the others are warned of."""
    found: list[Published] = []
    faults: list[str] = []
    repos = settings.known if settings.repos is None else settings.repos
    for repo in repos:
        try:
            found += published_in(_repository(repo, settings))
        except HubUnreachable as error:
            # The others would be waited for as long.
            faults.append(f"{error}; {_SERVES}")
            break
        except UserError as error:
            faults.append(f"{repo}: {error}")
    if faults and not found:
        raise UserError("; ".join(faults))
    for fault in faults:
        log.warning("left out: %s", fault)
    return found


def _repository(repo: str, settings: CatalogueSettings) -> HubRepository | LocalRepository:
    directory = Path(repo).expanduser()
    if directory.is_dir():
        return LocalRepository(directory)
    return HubRepository(
        HubSettings(
            repo=repo,
            folder=None,
            revision=None,
            timeout_s=settings.timeout_s,
            endpoint=settings.endpoint,
        )
    )


def _print_table(found: Sequence[Published]) -> None:
    """What a repository says is text: no markup of the table's, no codes of the terminal's."""
    columns = ("repository", "place", "model", "block", "t", "branch", "d_in", "d_sae", "sparsity")
    table = Table(*columns, "measured", box=SIMPLE_HEAD, pad_edge=False)
    for entry in found:
        t = None if entry.t is None else f"{entry.t:.2f}"
        cells = (entry.repo, entry.place, entry.model, entry.block or entry.hookpoint, t)
        sizes = (entry.conditioning, entry.d_in, entry.d_sae, entry.sparsity)
        row = (*cells, *sizes, in_words(entry.measured))
        table.add_row(*(Text(_plain("-" if cell is None else str(cell))) for cell in row))
    console = Console()
    console.width = max(console.width, WIDTH)
    console.print(table)
    console.print(f"{len(found)} SAEs", highlight=False)


def _plain(text: str) -> str:
    """The text without control characters."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
