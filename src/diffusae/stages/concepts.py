"""Concepts: list and search the labelled latents of all cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from diffusae.exploring.cells import trained_cells
from diffusae.exploring.concept_table import ConceptTable
from diffusae.exploring.opened import concepts_of
from diffusae.settings import Settings, Within
from diffusae.study.study import Study


@dataclass(frozen=True, kw_only=True)
class ConceptsSettings(Settings, part=""):
    """What stands at the root of `diffusae concepts`."""

    word: str | None
    format: Literal["table", "csv", "json"]
    rows: Annotated[int, Within(1, 10**9)] | None
    """Of the table on the terminal; None: all."""


def concepts(cfg: DictConfig) -> None:
    """Print one row a (cell, latent, label): counts, IoU, and how near the label is to the word.

    Raises:
        UserError: an unknown format, no labelled cell, a word without a vector.
    """
    study = Study(cfg)
    study.check(ConceptsSettings)
    settings = ConceptsSettings.of(cfg)
    made = concepts_of(study, trained_cells(study), settings.word)
    if settings.format == "csv":
        print(made.rows.to_csv(index=False), end="")
    elif settings.format == "json":
        print(made.rows.to_json(orient="records", indent=2))
    else:
        _print_table(made, settings.rows)


def _print_table(made: ConceptTable, most: int | None) -> None:
    if not made.exact:
        near = ", ".join(made.labels) or "(none)"
        print(f"{made.word!r} is no label of this study; the nearest labels are {near}")
    columns = [name for name in made.rows if name != "similarity" or made.word is not None]
    table = Table(*columns, box=None)
    shown: Any = made.rows[columns] if most is None else made.rows[columns].head(most)
    for row in shown.itertuples(index=False):
        table.add_row(
            *(f"{value:.2f}" if isinstance(value, float) else str(value) for value in row)
        )
    Console().print(table)
    if most is not None and (left := len(made.rows) - most) > 0:
        print(f"and {left} more rows: rows=null, format=csv or format=json shows them all")
